import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from dynse.audio.corpus import load_corpus
from dynse.audio.imitations import KINDS
from dynse.audio.mixing import MixConfig, Mixer
from dynse.models.checkpoint import read, save
from dynse.models.conv_fsenet import ConvFSENetConfig
from dynse.models.feeds import telephone_gain
from dynse.models.losses import LossConfig
from dynse.models.training import TrainConfig, Trainer, TrainingError, together

MODEL = ConvFSENetConfig(
    bands=32,
    linear_bands=16,
    residual_channels=16,
    hidden_channels=16,
    dilations=(1, 2, 4),
    gate_hidden=4,
    gate_fast=2,
)


def config(**changes):
    values = {
        "steps": 8,
        "batch": 2,
        "warmup": 2,
        "anneal_steps": 4,
        "valid_every": 4,
        "valid_mixtures": 8,
        "model": MODEL,
        "mix": MixConfig(seconds=1.0),
    }
    return TrainConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory, speechlike):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    speech, noise = [], []
    for split in ("train", "valid"):
        for i in range(2):
            soundfile.write(root / f"s{split}{i}.wav", np.roll(speechlike, 999 * i), 16000)
            speech.append(
                {
                    "path": f"s{split}{i}.wav",
                    "split": split,
                    "speaker": f"{split}{i}",
                    "gender": ("female", "male")[i],
                }
            )
        soundfile.write(root / f"n{split}.wav", 0.1 * rng.standard_normal(64000), 16000)
        noise.append({"path": f"n{split}.wav", "split": split, "category": "nature"})
    for table, rows in (("speech.csv", speech), ("noise.csv", noise)):
        with (root / table).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return root


@pytest.fixture(scope="module")
def corpora(data, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return [load_corpus(data, split, cache_dir=cache) for split in ("train", "valid")]


def trainer(corpora, out, **changes):
    return Trainer(config(**changes), *corpora, out, device="cpu", workers=0, compiled=False)


def weights(path):
    return read(path).tensors


@pytest.mark.parametrize("bank", [0, 6])
def test_a_killed_run_goes_on_to_the_same_weights(corpora, tmp_path, bank):
    mixed = {"bank": bank, "bank_steps": 3, "banks": 2}
    for _ in trainer(corpora, tmp_path / "whole", **mixed).run():
        pass
    for _ in trainer(corpora, tmp_path / "killed", **mixed).run():
        break  # after the first validation, at step 4
    later = trainer(corpora, tmp_path / "killed", **mixed)
    assert later.step == 4
    assert [record["step"] for record in later.run()] == [8]
    a, b = (
        weights(tmp_path / "whole/last.safetensors"),
        weights(tmp_path / "killed/last.safetensors"),
    )
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]), name


def test_a_run_leaves_what_it_says(corpora, tmp_path):
    records = list(trainer(corpora, tmp_path / "run").run())
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert lines == records
    assert [record["step"] for record in records] == [4, 8]
    header = read(tmp_path / "run/best.safetensors").header
    assert header["dims"] == json.loads(json.dumps(MODEL.to_dict()))
    assert header["training"]["steps"] in (4, 8)
    assert header["data"]["licenses"] == {"not stated": ["user data"]}
    assert not list((tmp_path / "run").glob("*.part"))


def test_training_moves_towards_its_goals(corpora, tmp_path):
    """Cleaner speech from fewer gates after a few dozen steps."""
    names = [name for name in MixConfig.__dataclass_fields__ if name.startswith("p_")]
    mix = MixConfig(seconds=1.0, snr_db=(0.0, 0.0), **dict.fromkeys(names, 0.0))
    run = trainer(
        corpora, tmp_path / "run", steps=80, valid_every=40, anneal_steps=10, batch=4, mix=mix,
        learning_rate=1e-2, loss=LossConfig(pesq_weight=0.0),  # 80 steps are few for that term
    )  # fmt: skip
    _, last = list(run.run())
    assert last["valid"]["si_sdr_db"] > 6  # of 0 dB
    assert last["valid"]["utilisation"] < 0.45
    assert last["valid"]["dynamic_gates"] > 0.8 * 16 * 3


def test_a_run_without_validation_keeps_its_last_weights(corpora, tmp_path):
    run = Trainer(config(), corpora[0], None, tmp_path, device="cpu", workers=0, compiled=False)
    assert [record["valid"] for record in run.run()] == [{}, {}]
    a, b = weights(tmp_path / "best.safetensors"), weights(tmp_path / "last.safetensors")
    assert all(np.array_equal(a[name], b[name]) for name in b)


def test_a_step_without_finite_gradient_is_skipped(corpora, tmp_path):
    run = trainer(corpora, tmp_path)
    batch = next(iter(run.feed.batches(0, 1)))
    before = [p.clone() for p in run.network.parameters()]
    run.learn(batch._replace(noisy=batch.noisy * float("nan")))
    assert all(torch.equal(a, b) for a, b in zip(before, run.network.parameters(), strict=True))
    run.learn(batch)
    assert not torch.equal(before[0], next(iter(run.network.parameters())))


@pytest.mark.parametrize("bank", [0, 6])
def test_labels_are_those_of_the_mixtures(corpora, tmp_path, bank):
    run = trainer(corpora, tmp_path, bank=bank, bank_steps=3, steps=6)
    mixer = Mixer(corpora[0], run.config.mix, run.config.seed)
    assert mixer.genders == ("female", "male")
    recorded, computed = {"nature"}, {"artificial", "music", "public", *KINDS}
    assert set(mixer.categories) == recorded | computed
    found, expected = [], []
    for batch in run.feed.batches(0, 6):
        found += batch.labels.tolist()
    if bank == 0:
        for number in range(12):
            mixture = mixer(number)
            expected.append([*mixer.numbers(mixture.gender, mixture.category)])
        assert found == expected
    genders, categories = ({row[i] for row in found} for i in (0, 1))
    assert {0, 1} <= genders <= {-1, 0, 1}
    assert mixer.categories.index("nature") in categories
    assert len(categories - {-1}) > 1
    assert categories <= {-1, *range(len(mixer.categories))}


def test_readouts_are_told_how_the_sound_before_and_after_is(corpora, tmp_path, monkeypatch):
    run = trainer(corpora, tmp_path)
    seen = []

    def loss(gates, noisy, clean, labels, penalties):
        seen.append((noisy, clean, penalties))
        return gates.sum() * 0

    monkeypatch.setattr(run.readouts, "loss", loss)
    run.learn(next(iter(run.feed.batches(0, 1))))
    ((noisy, clean, penalties),) = seen
    before = run.perceptual.penalty(noisy, clean)
    torch.testing.assert_close(penalties[:, 0], before)
    assert not torch.allclose(penalties[:, 1], before)


def test_other_data_than_the_run_began_with_is_refused(corpora, data, tmp_path):
    run = trainer(corpora, tmp_path)
    next(iter(run.run()))
    other = load_corpus(data, "train", cache_dir=tmp_path / "cache")
    other.noise[:] = [replace(clip, category="street") for clip in other.noise]
    with pytest.raises(TrainingError, match="belongs to a run on other data"):
        trainer([other, corpora[1]], tmp_path)


@pytest.mark.parametrize("left", [0, 20_000, None])
def test_a_damaged_state_file_is_named(corpora, tmp_path, left):
    next(iter(trainer(corpora, tmp_path).run()))
    state = tmp_path / "state.pt"
    state.write_bytes(b"junk" if left is None else state.read_bytes()[:left])
    with pytest.raises(TrainingError, match=r"state\.pt: damaged"):
        trainer(corpora, tmp_path)


def test_few_validation_mixtures_are_scored(corpora, tmp_path):
    (record, *_) = trainer(corpora, tmp_path, valid_mixtures=1).run()
    assert record["valid"]["pesq"] > 1
    assert None in record["valid"].values()  # it is not both easy and hard


def test_networks_trained_together_are_as_if_trained_alone(corpora, tmp_path):
    static = replace(MODEL, gated=False)
    first = trainer(corpora, tmp_path / "a")
    second = Trainer(
        config(model=static), *corpora, tmp_path / "b", device="cpu", workers=0, compiled=False,
        shared=first.feed,
    )  # fmt: skip
    records = list(together([first, second]))
    assert [[record["step"] for record in both] for both in records] == [[4, 4], [8, 8]]
    for _ in trainer(corpora, tmp_path / "alone", model=static).run():
        pass
    a, b = weights(tmp_path / "b/last.safetensors"), weights(tmp_path / "alone/last.safetensors")
    assert all(np.array_equal(a[name], b[name]) for name in b)
    with pytest.raises(TrainingError, match="different steps"):
        next(together([first, trainer(corpora, tmp_path / "c")]))


def test_other_settings_do_not_resume_but_more_steps_do(corpora, tmp_path):
    for _ in trainer(corpora, tmp_path / "run", steps=4).run():
        pass
    with pytest.raises(TrainingError, match="other settings"):
        trainer(corpora, tmp_path / "run", batch=3)
    assert trainer(corpora, tmp_path / "run", steps=20).step == 4


def test_starting_from_weights(corpora, tmp_path):
    for _ in trainer(corpora, tmp_path / "run", steps=4).run():
        pass
    trained = read(tmp_path / "run/last.safetensors")
    assert "after" not in trained.header["training"]
    start = tmp_path / "opened.safetensors"
    save(start, trained.tensors, {**trained.header, "averaged": 1, "gates_opened_by": 0.2})
    fresh = Trainer(
        config(), *corpora, tmp_path / "b", device="cpu", workers=0, compiled=False,
        start_from=start,
    )  # fmt: skip
    assert torch.equal(fresh.network.front.weight, torch.from_numpy(weights(start)["front.weight"]))
    next(fresh.run())
    (before,) = read(tmp_path / "b/last.safetensors").header["training"]["before"]
    assert before["steps"] == 4
    assert before["after"] == {"averaged": 1, "gates_opened_by": 0.2}
    with pytest.raises(TrainingError, match="dimensions"):
        Trainer(
            config(model=ConvFSENetConfig()), *corpora, tmp_path / "c", device="cpu", workers=0,
            compiled=False, start_from=start,
        )  # fmt: skip


@pytest.mark.parametrize("estimator", ["straight_through", "gumbel"])
def test_other_estimators_train(corpora, tmp_path, estimator):
    run = trainer(corpora, tmp_path, steps=4, model=replace(MODEL, estimator=estimator))
    (record,) = run.run()
    assert np.isfinite(record["train"]["total"])


def test_static_network_trains(corpora, tmp_path):
    (record,) = trainer(corpora, tmp_path, steps=4, model=replace(MODEL, gated=False)).run()
    assert "utilisation" not in record["valid"]


def test_telephone_band_is_that_of_some_items_and_of_the_step_alone():
    gain = telephone_gain(200, 0.5, (7, 3))
    assert gain.shape == (200, 1, 257)
    assert torch.equal(gain, telephone_gain(200, 0.5, (7, 3)))
    through = gain[:, 0, 32] > 0.99  # 1 kHz passes in any case
    assert through.all()
    banded = gain[:, 0, 200] < 0.1  # 6.25 kHz does not
    assert 60 < banded.sum() < 140
    assert (gain[banded, 0, 3] < 0.15).all()  # nor 94 Hz
    assert (gain[~banded] == 1).all()
    assert (telephone_gain(50, 0.0, (7, 3)) == 1).all()
