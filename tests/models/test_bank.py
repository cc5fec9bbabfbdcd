import os
import time

import numpy as np
import pytest
import torch

from dynse.audio.mixing import MixConfig, Mixer, active_level
from dynse.models.bank import Banks, Draws, band_and_level, labels_of, mix

CONFIG = MixConfig(seconds=1.0)


@pytest.fixture
def mixer(tmp_path, speechlike):
    """Of one voice, twice as loud at every index, and of one noise."""

    class Plain(Mixer):
        def __init__(self):
            self.config, self.seed, self.drawn = CONFIG, 3, []
            self.corpus = type("Corpus", (), {"cache": tmp_path / "c.npy", "speech": 1, "noise": 2})
            self.genders, self.categories = ("female", "male"), ("music", "street")

        def voice(self, index):
            self.drawn.append(index)
            speech = speechlike[:16000] * np.float32(2.0**index)
            return 0.5 * speech, speech, self.genders[index % 2]

        def background(self, index):
            x = np.random.default_rng(index).standard_normal(16000)
            return (x / np.sqrt(np.mean(x**2))).astype(np.float32), ["street", ""][index % 2]

    return Plain()


def row(**fields):
    values = {
        "voice": 0, "noise": 0, "snr_db": 0, "speaks": 1, "sounds": 1, "low_hz": 0, "high_hz": 1e6,
        "clip": 1, "offset": 0, "drop_from": 2, "drop_to": 2,
    }  # fmt: skip
    values |= fields
    return torch.tensor([[float(values[name]) for name in Draws.FIELDS] + [0.0] * 5])


def test_banks_are_drawn_once_and_shared(mixer, tmp_path):
    banks = Banks(mixer, 4, tmp_path / "banks")
    second = banks(1, then=0)
    assert set(mixer.drawn) <= set(range(8))
    first = banks(0)
    assert sorted(mixer.drawn) == list(range(8))
    again = Banks(mixer, 4, tmp_path / "banks")
    for a, b in ((again(0), first), (again(1), second)):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert len(mixer.drawn) == 8
    mixer.seed = 4
    Banks(mixer, 4, tmp_path / "banks")(0)
    assert len(mixer.drawn) == 12, "of another seed"


def test_banks_that_no_run_uses_any_more_are_removed(mixer, tmp_path):
    def is_old(path):
        weeks_ago = time.time() - 30 * 86_400
        os.utime(path, (weeks_ago, weeks_ago))

    kept, left, other = (tmp_path / x for x in ("bank-a-0.safetensors", "bank-b-0.4711", "other"))
    for path in (kept, left, other):
        path.touch()
    is_old(left)
    is_old(other)
    banks = Banks(mixer, 4, tmp_path)
    banks(0)
    assert kept.exists()
    assert other.exists(), "no bank"
    assert not left.exists()
    (own,) = set(tmp_path.glob("bank-*-0.safetensors")) - {kept}
    is_old(own)
    banks(0)
    banks(1)
    assert own.exists(), "it was used"


def test_mixtures_have_the_snr_and_level_asked_for(mixer, tmp_path):
    bank = Banks(mixer, 4, tmp_path)(0)
    for snr_db in (-5.0, 10.0):
        noisy, clean = mix(bank, row(voice=3, noise=1, snr_db=snr_db))
        quiet, _ = mix(bank, row(voice=3, sounds=0))
        assert active_level(clean[0].numpy()) == pytest.approx(1, rel=1e-3)
        noise = (noisy - quiet)[0].numpy()
        # The target is half as loud as the speech.
        found = 20 * np.log10(2 / np.sqrt(np.mean(noise**2)))
        assert found == pytest.approx(snr_db, abs=0.05)
    noisy, clean = mix(bank, row(speaks=0))
    assert not clean.any()
    assert noisy.square().mean().sqrt() == pytest.approx(1, rel=1e-3)


def test_labels_are_of_what_is_heard(mixer, tmp_path):
    bank = Banks(mixer, 4, tmp_path)(0)
    items = [row(voice=1, noise=2), row(noise=1), row(voice=3, speaks=0), row(voice=3, sounds=0)]
    assert labels_of(bank, torch.cat(items)).tolist() == [[1, 1], [0, -1], [-1, 1], [1, -1]]


def test_what_the_recording_chain_does(mixer, tmp_path):
    bank = Banks(mixer, 1, tmp_path)(0)
    plain, clean = mix(bank, row())
    clipped, _ = mix(bank, row(clip=0.5))
    assert clipped.abs().max() == pytest.approx(0.5 * plain.abs().max().item(), rel=1e-5)
    shifted, _ = mix(bank, row(offset=0.3))
    torch.testing.assert_close(shifted, plain + 0.3)
    dropped, missing = mix(bank, row(drop_from=0.25, drop_to=0.5))
    assert not dropped[0, 4001:7999].any()
    assert not missing[0, 4001:7999].any()
    assert torch.equal(dropped[0, :3999], plain[0, :3999])
    assert torch.equal(missing[0, 8001:], clean[0, 8001:])


def test_bands_and_changes_of_level():
    rows = row(low_hz=300, high_hz=3400).repeat(2, 1)
    rows[1, 5], rows[1, 6] = 0, 1e6
    rows[1, -5:] = torch.tensor([0.0, 6, 12, 6, 0])
    gain = band_and_level(rows, 9)
    assert gain.shape == (2, 9, 257)
    assert (gain[0, :, 32] > 0.99).all()
    assert (gain[0, :, (3, 200)] < 0.15).all()
    expected = 10 ** (torch.tensor([0.0, 3, 6, 9, 12, 9, 6, 3, 0]) / 20)
    torch.testing.assert_close(gain[1, :, 100], expected)


def test_draws_are_a_function_of_the_seed_with_the_shares_asked_for():
    draws = Draws(MixConfig(p_noise_only=0.2, p_clean_only=0.25, p_dropout=0.5), 50, 0.3)
    rows = draws((1, 2), 10, 40)
    assert rows.shape == (40, 50, draws.width)
    np.testing.assert_array_equal(rows, draws((1, 2), 10, 40))
    assert (rows != draws((1, 3), 10, 40)).any()
    of = {name: rows[..., i] for i, name in enumerate(Draws.FIELDS)}
    assert set(of["voice"].ravel()) == set(of["noise"].ravel()) == set(range(10))
    assert (of["speaks"] == 0).mean() == pytest.approx(0.2, abs=0.03)
    assert (of["sounds"] == 0).mean() == pytest.approx(0.2, abs=0.03)  # 0.25 of the rest
    assert ((of["speaks"] == 0) & (of["sounds"] == 0)).sum() == 0
    assert (of["low_hz"] > 0).mean() == pytest.approx(0.3, abs=0.03)
    assert (of["drop_from"] < 1).mean() == pytest.approx(0.5, abs=0.03)
