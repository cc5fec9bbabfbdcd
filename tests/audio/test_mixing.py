import csv

import numpy as np
import pytest
import soundfile

from dynse.audio.corpus import CorpusError, load_corpus
from dynse.audio.mixing import (
    MixConfig,
    Mixer,
    active_level,
    mix_at_snr,
    rolled_off,
    synthetic_noise,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three speakers and two noises as tones and noise, in the table layout."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    speech, noise = [], []
    for i, name in enumerate(["ann", "bob", "cyd"]):
        t = np.arange(32000) / 16000
        x = 0.2 * np.sin(2 * np.pi * (150 + 50 * i) * t) * (np.sin(2 * np.pi * t) > 0)
        soundfile.write(root / f"{name}.wav", x, 16000)
        speech.append(
            {"path": f"{name}.wav", "split": "train", "speaker": name, "gender": "female"}
        )
    for name in ("rain", "car"):
        soundfile.write(root / f"{name}.wav", 0.1 * rng.standard_normal(48000), 16000)
        noise.append({"path": f"{name}.wav", "split": "train", "category": "nature", "label": name})
    for table, rows in (("speech.csv", speech), ("noise.csv", noise)):
        with (root / table).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return load_corpus(root, "train", cache_dir=root / "cache")


def test_same_seed_and_index_give_the_same_bits(corpus):
    a, b = Mixer(corpus, seed=3), Mixer(corpus, seed=3)
    for index in (0, 5, 17):
        assert np.array_equal(a(index).noisy, b(index).noisy)
        assert np.array_equal(a(index).clean, b(index).clean)
    assert not np.array_equal(Mixer(corpus, seed=4)(0).noisy, a(0).noisy)


def test_every_kind_of_mixture_is_sane(corpus):
    mixer = Mixer(corpus, MixConfig(seconds=2.0))
    effects, categories = set(), set()
    for index in range(300):
        mixture = mixer(index)
        assert mixture.noisy.shape == mixture.clean.shape == (32000,)
        assert mixture.noisy.dtype == mixture.clean.dtype == np.float32
        assert np.isfinite(mixture.noisy).all()
        assert np.isfinite(mixture.clean).all()
        assert mixture.noisy.any()
        if "noise_only" in mixture.effects:
            assert not mixture.clean.any()
            assert mixture.speaker == ""
        else:
            assert mixture.speaker in {"ann", "bob", "cyd"}
        effects.update(mixture.effects)
        categories.add(mixture.category)
    assert effects >= {"noise_only", "clean_only", "reverb", "clipping", "narrowband", "dropout"}
    everyday = {"nature", "transport", "office", "domestic"}
    assert categories == {"", "artificial", "public", "music"} | everyday
    assert set(mixer.categories) == categories - {""}
    assert "music" not in Mixer(corpus, MixConfig(p_music=0.0)).categories


def _plain(**changes):
    names = [n for n in MixConfig.__dataclass_fields__ if n.startswith("p_")]
    return MixConfig(**{**dict.fromkeys(names, 0.0), **changes})


def test_snr_and_level_are_what_they_say(corpus):
    mixer = Mixer(corpus, _plain(snr_db=(5.0, 5.0), level_dbfs=(-30.0, -30.0)))
    for index in range(20):
        mixture = mixer(index)
        noise = mixture.noisy - mixture.clean
        ratio = active_level(mixture.clean) / np.sqrt(np.mean(noise**2))
        assert 20 * np.log10(ratio) == pytest.approx(5.0, abs=0.01)
        assert mixture.snr_db == 5.0
        assert 20 * np.log10(active_level(mixture.noisy)) == pytest.approx(-30, abs=0.01)


def test_clean_only_is_its_own_target(corpus):
    mixture = Mixer(corpus, _plain(p_clean_only=1.0))(0)
    assert np.array_equal(mixture.noisy, mixture.clean)
    assert mixture.snr_db is None


def test_active_level_leaves_pauses_out():
    t = np.arange(16000) / 16000
    x = np.concatenate([np.sin(2 * np.pi * 500 * t), np.zeros(48000)]).astype(np.float32)
    assert active_level(x) == pytest.approx(np.sqrt(0.5), rel=1e-3)
    assert active_level(np.zeros(100, np.float32)) == 0


def test_mix_at_snr_by_hand():
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, 160000)).astype(np.float32)
    noisy, scaled = mix_at_snr(clean, noise, 20.0)
    assert np.sqrt(np.mean(scaled**2)) == pytest.approx(0.1, rel=0.03)
    np.testing.assert_allclose(noisy, clean + scaled)


def test_synthetic_noises_of_every_kind_are_finite():
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(60):
        x, kind = synthetic_noise(rng, 8000)
        assert x.shape == (8000,)
        assert np.isfinite(x).all()
        assert x.std() > 0
        kinds.add(kind)
    assert kinds == {"coloured", "hiss", "hum", "engine", "clicks", "tones"}


def test_computed_noise_has_the_category_of_its_kind(corpus):
    computed = Mixer(corpus, _plain(seconds=0.5, p_synthetic=1.0))
    kinds = {computed(i).noise_label: computed(i).category for i in range(60)}
    assert kinds.pop("engine") == "transport"
    assert set(kinds.values()) == {"artificial"}
    imitated = Mixer(corpus, _plain(seconds=0.5, p_imitation=1.0))
    seen = {imitated(i).category for i in range(60)}
    assert seen == {"transport", "nature", "office", "domestic"} <= set(imitated.categories)


def _share_above(x, hertz):
    power = np.abs(np.fft.rfft(x)) ** 2
    return power[int(hertz * len(x) / 16000) :].sum() / power.sum()


def test_a_resampler_takes_the_end_of_the_band_alone():
    x = np.random.default_rng(0).standard_normal(80_000).astype(np.float32)
    for seed in range(5):
        y = rolled_off(np.random.default_rng(seed), x)
        assert y.dtype == np.float32
        assert _share_above(y, 7000) < _share_above(x, 7000)
        assert _share_above(y, 7900) < 0.2 * _share_above(x, 7900)
        kept = np.fft.rfft(x - y)[: 6700 * 5]
        assert np.abs(kept).max() < 1e-2 * np.abs(np.fft.rfft(x)).max()


def test_only_computed_noise_loses_the_end_of_its_band(corpus):
    everything = {"p_noise_only": 1.0, "p_rolled_off": 1.0, "seconds": 1.0}
    for kind in ({"p_synthetic": 1.0}, {"p_imitation": 1.0}, {"p_music": 1.0}):
        mixer = Mixer(corpus, _plain(**everything, **kind))
        assert max(_share_above(mixer(i).noisy, 7950) for i in range(20)) < 1e-3
    recorded = Mixer(corpus, _plain(**everything))
    shares = [_share_above(recorded(i).noisy, 7950) for i in range(20)]
    assert np.median(shares) > 5e-3  # they are white, some of them at another speed


def test_plain_folders_are_a_corpus(tmp_path):
    rng = np.random.default_rng(0)
    for speaker in range(12):
        for take in range(2):
            path = tmp_path / "clean" / f"s{speaker:02}" / f"{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * rng.standard_normal(24000), 24000)
    for kind in ("rain", "office"):
        for i in range(8):
            path = tmp_path / "noise" / kind / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * rng.standard_normal((16000, 2)), 16000)
    (tmp_path / "speakers.csv").write_text("speaker,gender\ns00,male\ns01,female\n")
    parts = {
        split: load_corpus(tmp_path, split, cache_dir=tmp_path / "cache")
        for split in ("train", "valid", "test")
    }
    train = parts["train"]
    for kind in ("speech", "noise"):
        paths = [{clip.path for clip in getattr(part, kind)} for part in parts.values()]
        assert all(paths)
        assert sum(map(len, paths)) == len(set.union(*paths))
    assert {clip.category for clip in train.noise} == {"rain", "office"}
    assert all(clip.frames == 16000 for clip in train.speech), "resampled to 16 kHz"
    genders = {clip.speaker: clip.gender for clip in train.speech}
    assert {genders.get("s00", "male"), genders.get("s01", "female")} == {"male", "female"}
    assert not {c.speaker for c in train.speech} & {c.speaker for c in parts["valid"].speech}


def test_hidden_folders_hold_no_data(tmp_path):
    for number in range(3):
        for name in (f"clean/{number}/a.wav", f"clean/.Trash/{number}.wav", f"noise/{number}.wav"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / name, np.full(16000, 0.1), 16000)
    (tmp_path / "noise/._0.wav").write_bytes(b"\0\5\x16\7")
    for split in ("train", "valid", "test"):
        corpus = load_corpus(tmp_path, split, cache_dir=tmp_path / "cache")
        assert len(corpus.speech) == len(corpus.noise) == 1
        assert corpus.speech[0].speaker.isdecimal()


@pytest.mark.parametrize("count", [3, 4, 7])
def test_few_recordings_still_fill_every_split(tmp_path, count):
    for folder in ("clean", "noise"):
        (tmp_path / folder).mkdir()
        for i in range(count):
            soundfile.write(tmp_path / folder / f"{i}.wav", np.full(16000, 0.1), 16000)
    for split in ("train", "valid", "test"):
        corpus = load_corpus(tmp_path, split, cache_dir=tmp_path / "cache")
        assert corpus.speech
        assert corpus.noise
    for i in range(2, count):
        (tmp_path / "noise" / f"{i}.wav").unlink()
    with pytest.raises(CorpusError, match="noise needs at least 3 to split, found 2"):
        load_corpus(tmp_path, "train", cache_dir=tmp_path / "cache")


def test_missing_things_are_named(tmp_path):
    with pytest.raises(CorpusError, match="no such folder"):
        load_corpus(tmp_path / "nope", "train")
    with pytest.raises(CorpusError, match=r"needs speech\.csv"):
        load_corpus(tmp_path, "train")
    (tmp_path / "speech.csv").write_text("path,split\nlost.wav,train\n")
    (tmp_path / "noise.csv").write_text("path,split\nlost.wav,train\n")
    with pytest.raises(CorpusError, match=r"lost\.wav"):
        load_corpus(tmp_path, "train", cache_dir=tmp_path)
    with pytest.raises(CorpusError, match="no speech in the split 'valid'"):
        load_corpus(tmp_path, "valid", cache_dir=tmp_path)
    with pytest.raises(CorpusError, match="unknown split"):
        load_corpus(tmp_path, "dev")
