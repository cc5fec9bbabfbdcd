import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dynse.audio.corpus import load_corpus
from dynse.probes import data
from dynse.probes.calibration import FROM_GAIN, speech_lines
from dynse.probes.data import StreamConfig, build_stream, enhanced_targets
from dynse.probes.fit import fit_probes, load_split
from dynse.probes.probe_file import load_probes

MINUTES = 0.6


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def stream(corpus_folder, cache, monkeypatch, no_pesq):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return build_stream(load_corpus(corpus_folder, "train"), StreamConfig(minutes=MINUTES))


def test_labels_and_targets_are_on_one_grid(stream, engine):
    enhanced_targets(stream, engine)
    frames = len(stream.clean) // 256 + 1
    assert stream.frames == frames
    assert all(len(x) == frames for x in (*stream.labels.values(), *stream.targets.values()))
    vad, spoken = stream.targets["vad"], stream.labels["utterance"] >= 0
    assert 0.2 < vad.mean() < 0.9
    assert not (vad & ~spoken).any()
    assert (stream.labels["gender"][spoken] >= 0).all()
    assert not (stream.targets["voiced"] & ~vad).any()
    assert stream.classes["category"] == ["hiss", "rumble"]
    assert len(stream.speakers) == stream.labels["utterance"].max() + 1
    assert set(stream.speakers) <= {"s0", "s1", "s2", "s3"}


def test_f0_tells_the_genders_apart(stream):
    f0, gender = stream.targets["f0_hz"], stream.labels["gender"]
    voiced = f0 > 0
    medians = [np.median(f0[voiced & (gender == g)]) for g in (0, 1)]
    assert medians[0] == pytest.approx(222, rel=0.15)
    assert medians[1] == pytest.approx(115, rel=0.15)


def test_a_stream_is_a_function_of_its_seed(stream, corpus_folder, tmp_path):
    corpus = load_corpus(corpus_folder, "train")
    again = build_stream(corpus, StreamConfig(minutes=MINUTES), cache_dir=tmp_path / "a")
    other = build_stream(corpus, StreamConfig(minutes=MINUTES, seed=1), cache_dir=tmp_path / "a")
    assert np.array_equal(again.clean, stream.clean)
    assert np.array_equal(again.noise, stream.noise)
    assert not np.array_equal(other.clean, stream.clean)


def test_noise_may_have_been_through_a_resampler(stream, corpus_folder, tmp_path):
    config = StreamConfig(minutes=MINUTES, p_rolled_off=1.0)
    found = build_stream(load_corpus(corpus_folder, "train"), config, cache_dir=tmp_path)

    def treble(noise):  # of the loudest second, which rounding to 16 bits does not hide
        seconds = np.asarray(noise[: len(noise) // 16000 * 16000], float).reshape(-1, 16000)
        power = np.abs(np.fft.rfft(seconds[np.argmax(seconds.std(axis=1))])) ** 2
        return power[7900:].mean() / power.mean()

    assert treble(found.noise) < 0.01 < treble(stream.noise)


def test_labels_are_renumbered_by_another_streams_classes(stream):
    before = stream.labels["category"].copy()
    stream.align({**stream.classes, "category": ["rumble", "wind"]})
    after = stream.labels["category"]
    assert ((after == 0) == (before == 1)).all()
    assert (after[before != 1] == -1).all()


def test_fitted_probes_beat_their_baselines(
    corpus_folder, tmp_path, cache, engine, monkeypatch, no_pesq
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr("dynse.probes.fitting.L2_GRID", (10.0, 1000.0))
    path = tmp_path / "probes.safetensors"
    said = []
    report = fit_probes(corpus_folder, engine, path, minutes=MINUTES, count=24, say=said.append)
    probes = load_probes(path)
    assert probes.sha256 == report.sha256
    assert probes.header["model"]["sha256"] == engine.sha256
    of = {p.name: probes.weights[:, p.first : p.first + p.columns] for p in probes.probes}
    own = of.pop("category").any(axis=1)
    shared = np.concatenate(list(of.values()), axis=1).any(axis=1)
    assert shared.sum() == own.sum() == 24
    assert 24 < len(probes.features) == (shared | own).sum() <= 48
    assert report.header["gates"]["read"] == len(probes.features)
    assert report.header["held_out"] == "test"
    assert "language" in report.skipped
    assert "train: masks" in said
    assert {"vad", "gender", "category", "snr_input_db", "pesq_input", "f0_hz"} <= {
        probe.name for probe in probes.probes
    }
    held_out = report.scores["vad"]["held_out"]
    assert held_out["accuracy"] > held_out["baseline_accuracy"] + 0.1
    held_out = report.scores["snr_input_db"]["held_out"]
    assert held_out["mae"] < held_out["baseline_mae"]
    classes, matrix = report.confusion["category"]
    assert classes == ("hiss", "music", "rumble")
    assert probes.get("category").unnamed == ("music",)  # computed: known, but not reported
    assert matrix.sum() == report.scores["category"]["held_out"]["frames"]
    assert set(probes.header["recordings"]) <= set(FROM_GAIN)


def test_lines_tell_speech_from_what_sounds_like_it():
    rng = np.random.default_rng(0)
    speech = rng.normal((0.9, 0, -4), (0.02, 5, 1), (400, 3))
    speech[:, 0] += 0.01 * speech[:, 1]
    music = rng.normal((0.9, 0, -1), (0.04, 5, 0.5), (60, 3))
    lines = speech_lines(speech, music)
    weak, line = (lines[name] for name in ("weak", "music"))
    for found in (weak, line):
        below = speech @ found["weights"] + found["offset"] < 0
        assert found["lost"] == below.sum() == 8  # 2 % of 400
        assert found["scenes"] == 400
    assert weak["weights"] == pytest.approx([1, -0.01, 0], abs=0.001)
    assert line["passes"] == (music @ line["weights"] + line["offset"] >= 0).sum() < 10
    assert speech_lines(speech, music[:4]).keys() == {"weak"}
    assert speech_lines(speech[:49], music) == {}


def test_a_stream_is_mixed_once_however_many_want_it(corpus_folder, tmp_path, monkeypatch, no_pesq):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    corpus, config, written = load_corpus(corpus_folder, "train"), StreamConfig(minutes=0.2), []

    def slowly(folder, *rest):
        written.append(folder)
        time.sleep(0.3)
        write(folder, *rest)

    write = data._write
    monkeypatch.setattr(data, "_write", slowly)
    with ThreadPoolExecutor(3) as threads:
        streams = list(threads.map(lambda _: build_stream(corpus, config), range(3)))
    assert len(written) == 1
    assert all(np.array_equal(stream.clean, streams[0].clean) for stream in streams)


def test_music_is_a_category_where_it_is_asked_for(corpus_folder, cache, monkeypatch, no_pesq):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    config = StreamConfig(minutes=MINUTES, p_music=0.5)
    stream = build_stream(load_corpus(corpus_folder, "train"), config)
    assert stream.classes["category"] == ["hiss", "music", "rumble"]
    heard = stream.labels["category"] == 1
    assert 0.1 < heard.mean() < 0.9
    frames = stream.noise[: (stream.frames - 1) * 256].reshape(-1, 256)[heard[:-1]]
    power = np.abs(np.fft.rfft(frames.astype(float))) ** 2
    # Tones stand out of the spectrum as neither hiss nor rumble does.
    loud = power.mean(axis=1) > 0
    assert np.median(power.max(axis=1)[loud] / power.mean(axis=1)[loud]) > 8


def test_own_recordings_of_music_are_named(corpus_folder, engine, tmp_path, monkeypatch, no_pesq):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "data"
    shutil.copytree(corpus_folder, folder)
    table = folder / "noise.csv"
    table.write_text(table.read_text().replace(",rumble", ",music"))
    split = load_split(folder, "train", engine, MINUTES, pesq_minutes=0.0)
    assert split.stream.classes["category"] == ["hiss", "music"]
    assert split.computed == ()
