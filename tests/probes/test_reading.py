import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from dynse.models.stream import Stream
from dynse.probes import reading
from dynse.probes.probe_file import (
    AT_ONCE,
    EXACT,
    Probe,
    ProbesError,
    around,
    bounds,
    load_probes,
    quantise,
    save_probes,
)
from dynse.probes.reading import ProbeReader, SegmentRule, kept_to_removed_db, powers, segments

PROBES = [
    Probe("vad", "flag", (), around(5), first=0),
    Probe("voiced", "flag", first=1),
    Probe("gender", "class", ("female", "male"), around(9), first=2, rows="speech"),
    Probe("category", "class", ("a", "b", "c"), around(31), first=3, outputs=3, evidence=2.0),
    Probe("snr_input_db", "value", (), AT_ONCE, (-50.0, 30.0), first=6, rows="speech"),
    Probe("f0_hz", "value", (), ((-9, -3), (2, 4)), (50.0, 800.0), first=7, rows="voiced"),
]


def write(path, engine, **header):
    rng = np.random.default_rng(0)
    gates = engine.gate_shape[0] * engine.gate_shape[1]
    features = np.sort(rng.permutation(gates)[:48])
    scale = np.array([1, 1, 1, 0.3, 0.3, 0.3, 3, 20, 10])
    bias = np.array([0.5, 0.5, 0, 0, 0, 0, 5, 150, 0])
    model = {"name": engine.name, "sha256": engine.sha256}
    header = {"name": "random", "model": model, **header}
    weights = rng.standard_normal((48, 9)) * scale
    save_probes(path, header, PROBES, features, weights, bias)
    return features, weights, bias


@pytest.fixture(scope="module")
def probes(engine, tmp_path_factory):
    path = tmp_path_factory.mktemp("probes") / "random.safetensors"
    write(path, engine)
    return load_probes(path)


def read(engine, probes, x, cuts=()):
    reader = ProbeReader(probes, engine)
    stream = Stream(engine, listener=reader.update)
    for part in np.split(x, cuts):
        stream.feed(part)
    stream.flush()
    return reader.finish(len(x) / 16000)


@given(cuts=st.lists(st.integers(0, 20000), max_size=9).map(sorted), length=st.integers(0, 20000))
@settings(max_examples=25, deadline=None)
def test_any_cut_gives_the_same_bits(engine, probes, speechlike, cuts, length):
    x = speechlike[:length]
    whole, cut = read(engine, probes, x), read(engine, probes, x, cuts)
    assert whole.tracks.keys() == cut.tracks.keys()
    for name, track in whole.tracks.items():
        assert np.array_equal(track, cut.tracks[name], equal_nan=True), name
    assert whole.values == cut.values
    assert whole.classes == cut.classes
    assert whole.segments == cut.segments


def test_tracks_are_the_weighted_sums(engine, tmp_path, speechlike):
    features, weights, bias = write(tmp_path / "p", engine)
    probes = load_probes(tmp_path / "p")
    seen = []
    stream = Stream(engine, listener=lambda _, gates, __: seen.append(gates))
    stream.feed(speechlike)
    stream.flush()
    gates = np.concatenate(seen)
    flat = gates.reshape(len(gates), -1).astype(float)
    outputs = flat[:, features] @ weights + bias
    found = read(engine, probes, speechlike)
    voiced = 1 / (1 + np.exp(-outputs[:, 1]))
    np.testing.assert_allclose(found.tracks["voiced"], voiced, atol=1e-5)
    inner = np.convolve(outputs[:, 0], np.ones(5) / 5, mode="valid")
    np.testing.assert_allclose(found.tracks["vad"][2:-2], 1 / (1 + np.exp(-inner)), atol=1e-5)
    ahead = np.convolve(outputs[:, 7], np.ones(7) / 7, mode="valid")
    behind = np.convolve(outputs[:, 8], np.ones(3) / 3, mode="valid")
    f0 = np.clip(ahead[:100] + behind[11:111], 50, 800)
    heard = found.tracks["f0_hz"][9:109]
    spoken = np.isfinite(heard)
    assert spoken.any()
    np.testing.assert_allclose(heard[spoken], f0[spoken], atol=1e-2)
    np.testing.assert_allclose(found.tracks["utilisation"], flat.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(np.exp(found.tracks["category"]).sum(axis=1), 1, atol=1e-5)


def test_every_partial_sum_is_exact():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((300, 5)) * 10.0 ** rng.integers(-3, 3, 5)
    weights[:, 4] = 0
    long = [Probe("vad", "flag", spans=((-500, 500),)), Probe("x", "class", outputs=4, first=1)]
    below = bounds(long)
    assert below.tolist() == [2**31 // 1001, *[EXACT] * 4]
    integers, scale = quantise(weights, below)
    assert (np.abs(integers).sum(axis=0) < below).all()
    np.testing.assert_allclose(integers * scale, weights, atol=1e-3 * np.abs(weights).max())
    bits = (rng.uniform(size=(50, 300)) < 0.5).astype(np.float32)
    exact = bits.astype(np.int64) @ integers.astype(np.int64)
    assert np.array_equal(bits @ integers, exact)


def test_segments_have_hysteresis_and_least_lengths():
    p = np.zeros(200)
    p[10:40] = 0.9
    p[40:50] = 0.4  # below `on` but above `off`: goes on
    p[55:70] = 0.9  # a gap of 80 ms: closed
    p[100:104] = 0.9  # 64 ms: too short
    p[150:170] = 0.45  # never reaches `on`
    rule = SegmentRule(on=0.5, off=0.35, min_speech_s=0.16, min_gap_s=0.2, min_confidence=0.6)
    (found,) = segments(p, rule)
    assert found.start_s == pytest.approx(9.5 * 0.016)
    assert found.end_s == pytest.approx(69.5 * 0.016)
    assert 0.7 < found.confidence < 0.9
    assert segments(np.zeros(0), rule) == []
    (whole,) = segments(np.ones(100), rule, duration_s=1.55)
    assert (whole.start_s, whole.end_s) == (0.0, 1.55)


def test_nothing_to_estimate_is_null(engine, probes):
    nothing = read(engine, probes, np.zeros(0, np.float32))
    assert nothing.frames == 0
    assert nothing.utilisation is None
    assert nothing.speech_ratio is None
    assert set(nothing.values.values()) == {None}
    reader = ProbeReader(probes, engine)
    stream = Stream(engine, listener=reader)
    stream.feed(np.zeros(16000, np.float32))
    stream.flush()
    silence = reader.finish(1.0, silent=True)
    assert silence.segments == []
    assert silence.speech_ratio == 0
    assert set(silence.values.values()) == {None}
    assert all(label is None for label, _ in silence.classes.values())
    assert np.isnan(silence.tracks["snr_input_db"]).all()


def test_what_is_not_to_be_named_is_null(engine, tmp_path, speechlike):
    header = {"name": "one", "model": {"name": engine.name, "sha256": engine.sha256}}
    labels = []
    for unnamed in ((), ("b",), ("a", "c")):
        probe = Probe("category", "class", ("a", "b", "c"), outputs=3, unnamed=unnamed)
        weights, bias = np.zeros((4, 3)), np.array([0.0, 7.0, 0.0])
        save_probes(tmp_path / "p", header, [probe], np.arange(4), weights, bias)
        label, p = read(engine, load_probes(tmp_path / "p"), speechlike).classes["category"]
        assert p["b"] > 0.9
        labels.append(label)
    assert labels == ["b", None, "b"]


@pytest.mark.parametrize(
    ("noise", "music", "label"),
    [(0.98, 0.001, None), (0.99, 0.001, "a"), (0.99, 0.004, "a"), (0.988, 0.01, None)],
)
def test_a_noise_is_named_where_it_is_sure_and_no_music(
    engine, tmp_path, speechlike, noise, music, label
):
    header = {"name": "one", "model": {"name": engine.name, "sha256": engine.sha256}}
    kinds = ("a", "b", "music")
    probe = Probe("category", "class", kinds, outputs=3, unnamed=("music",))
    bias = np.log([noise, 1 - noise - music, music])
    save_probes(tmp_path / "p", header, [probe], np.arange(4), np.zeros((4, 3)), bias)
    found, p = read(engine, load_probes(tmp_path / "p"), speechlike).classes["category"]
    assert list(p.values()) == pytest.approx([noise, 1 - noise - music, music], abs=1e-4)
    assert found == label


@pytest.mark.parametrize("offset", [-8.0, -9.0])
def test_nothing_is_said_of_speech_that_may_be_music(engine, tmp_path, speechlike, offset):
    """The line of the file below reads: SNR + ln(p of music + 0.001) + offset."""
    header = {
        "name": "guard",
        "model": {"name": engine.name, "sha256": engine.sha256},
        "from_gain": {"snr_input_db": {"slope": 0.0, "offset": 12.0}},
        "speech_lines": {
            "weak": {"weights": [1.0, 0.0, 0.0], "offset": 0.0},
            "music": {"weights": [0.0, 1.0, 1.0], "offset": offset},
        },
    }
    probes = [
        Probe("vad", "flag", first=0),
        Probe("category", "class", ("a", "music"), first=1, outputs=1, unnamed=("music",)),
        Probe("f0_hz", "value", (), AT_ONCE, (50.0, 800.0), first=2, rows="voiced"),
        Probe("snr_input_db", "value", (), AT_ONCE, (-50.0, 30.0), first=3, rows="speech"),
    ]
    bias = np.array([5.0, -1.0, 150.0, 0.0])
    save_probes(tmp_path / "p", header, probes, np.arange(4), np.zeros((4, 4)), bias)
    found = read(engine, load_probes(tmp_path / "p"), speechlike)
    assert found.segments
    music = 1 / (1 + np.e)
    assert found.evidence == pytest.approx((1 / (1 + np.exp(-5)), 10.0, np.log(music + 1e-3)))
    assert found.doubtful == (10 + np.log(music + 1e-3) + offset < 0)
    assert found.doubtful == (offset == -9)
    assert all((value is None) == found.doubtful for value in found.values.values())
    assert found.classes["category"][0] is None
    for name in ("f0_hz", "snr_input_db"):
        assert np.isfinite(found.tracks[name]).any() != found.doubtful, name


def test_probes_of_another_model_are_refused(engine, tmp_path):
    other = type("Other", (), {"name": "other", "sha256": "f" * 64, "gate_shape": (6, 40)})
    write(tmp_path / "p", other)
    with pytest.raises(ProbesError, match=r"fitted for the model 'other' .* not for 'tiny'"):
        ProbeReader(load_probes(tmp_path / "p"), engine)


def test_values_without_limits_keep_their_digits(engine, tmp_path, speechlike):
    header = {"name": "one", "model": {"name": engine.name, "sha256": engine.sha256}}
    probe = Probe("year", "value")
    save_probes(
        tmp_path / "p", header, [probe], np.arange(4), np.zeros((4, 1)), np.array([1.7e9 + 33])
    )
    found = read(engine, load_probes(tmp_path / "p"), speechlike)
    assert found.values["year"] == pytest.approx(1.7e9 + 33, abs=1e-3)


def test_damaged_files_are_refused(engine, tmp_path):
    with pytest.raises(ProbesError, match="No such file"):
        load_probes(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello, this is not a safetensors file")
    with pytest.raises(ProbesError, match="not a safetensors file"):
        load_probes(tmp_path / "text")
    write(tmp_path / "p", engine)
    data = (tmp_path / "p").read_bytes()
    (tmp_path / "q").write_bytes(data.replace(b"dynse.probes/1", b"dynse.probes/9"))
    with pytest.raises(ProbesError, match="not a dynse probes file"):
        load_probes(tmp_path / "q")
    (tmp_path / "r").write_bytes(data[:-8])
    with pytest.raises(ProbesError, match="not a safetensors file"):
        load_probes(tmp_path / "r")
    save_file({"x": np.zeros(1)}, tmp_path / "s")
    with pytest.raises(ProbesError, match="not a dynse probes file"):
        load_probes(tmp_path / "s")


def test_run_time_imports_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, dynse.probes.reading, dynse.probes.probe_file;"
        "print([m for m in ('sklearn', 'scipy', 'torch', 'librosa') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


KERNELS = [(reading._listen, reading._average)]
if reading._reading is not None:
    KERNELS.append((reading._reading.listen, reading._reading.average))


def listened(listen, gates, features, weights):
    """Running sums and numbers of open gates from `listen`, 37 frames at a time."""
    length, width = len(gates), weights.shape[1]
    running, opened = np.zeros((length + 1, width), np.uint32), np.zeros(length, np.uint16)
    running[0] = 2**32 - 5  # about to run over
    rng = np.random.default_rng(1)
    gain, spectrum = rng.random((length, 9), "f4"), np.ones((length, 9), "c8")
    kept = np.zeros((length, 2), np.float32)
    given = (features, weights, running, opened)
    written = 0
    for at in [*range(0, length, 37), length]:  # the last of no frames
        part = slice(at, at + 37)
        written += listen(
            gain[part], gates[part], spectrum[part], 9, *given, at, kept, written, at, length
        )
    assert written == length
    expected = np.stack([(gain**2).sum(1), ((1 - gain) ** 2).sum(1)], 1)
    np.testing.assert_allclose(kept, expected, rtol=1e-5)
    return running, opened


@pytest.mark.parametrize("width", [16, 32, 48, 64, 80])
@pytest.mark.parametrize("gates", [1, 63, 64, 65, 300])
def test_running_sums_are_of_the_weights_of_open_gates(width, gates):
    rng = np.random.default_rng(width + gates)
    on = (rng.uniform(size=(90, gates)) < 0.3).astype(np.uint8)
    features = np.sort(rng.permutation(gates)[: 1 + gates // 2]).astype(np.int32)
    weights = rng.integers(-(2**19), 2**19, (len(features), width), dtype=np.int32)
    sums = np.cumsum(on[:, features].astype(np.int64) @ weights, axis=0) - 5
    for listen, _ in KERNELS:
        running, opened = listened(listen, on, features, weights)
        assert np.array_equal(running[1:], sums.astype(np.uint32))
        assert np.array_equal(opened, on.sum(1))


@pytest.mark.parametrize(("listen", "average"), KERNELS)
@pytest.mark.parametrize("length", [0, 1, 3, 50, 400])
@pytest.mark.parametrize("span", [(0, 0), (-7, 7), (-80, -31), (31, 80), (2, 5), (-30, -13)])
def test_outputs_are_means_over_the_frames_there_are(listen, average, length, span):
    rng = np.random.default_rng(0)
    gates = (rng.uniform(size=(length, 300)) < 0.3).astype(np.uint8)
    features = np.sort(rng.permutation(300)[:21]).astype(np.int32)
    weights = np.zeros((21, 16), np.int32)
    weights[:, :3] = rng.integers(-(2**19), 2**19, (21, 3))
    running, opened = listened(listen, gates, features, weights)
    assert opened.tolist() == gates.sum(axis=1).tolist()
    columns = np.array([(0, 0, 0), (1, *span), (0, *span)], np.int32)
    scale, bias = np.array([1.0, 0.5, 2.0]), np.array([3.0, 0.25])
    sums = gates[:, features].astype(np.int64) @ weights[:, :3]
    expected = np.repeat(bias[:, None], length, axis=1)
    for frame in range(length):
        expected[0, frame] += sums[frame, 0]
        inside = sums[max(frame + span[0], 0) : max(frame + span[1] + 1, 0)]
        if len(inside):
            expected[:, frame] += [2 * inside[:, 2].mean(), 0.5 * inside[:, 1].mean()]
    out = np.full((2, length), np.nan)
    average(running, 16, 0, columns, scale, bias, 0, out)
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    reach, begin, end = 81, length // 3, length // 2
    base = max(begin - reach, 0)
    part = np.full((2, end - begin), np.nan)
    heard = min(end + reach, length)
    average(running[base : heard + 1], 16, base, columns, scale, bias, begin, part)
    assert np.array_equal(part, out[:, begin:end])


@pytest.mark.skipif(reading._reading is None, reason="built without a C compiler")
def test_numpy_reads_the_same_bits(engine, probes, speechlike, monkeypatch):
    x = np.tile(speechlike, 20)  # several pieces
    compiled = read(engine, probes, x)
    monkeypatch.setattr(reading, "_reading", None)
    plain = read(engine, probes, x)
    assert compiled.values == plain.values
    assert compiled.segments == plain.segments
    for name, track in compiled.tracks.items():
        assert np.array_equal(track, plain.tracks[name], equal_nan=True), name


@pytest.mark.skipif(reading._reading is None, reason="built without a C compiler")
def test_the_compiled_powers_refuse_buffers_that_do_not_fit():
    gain, x, out = np.zeros((5, 9), "f4"), np.zeros((5, 9), "c8"), np.zeros((5, 2), "f4")
    good = (gain, x, 9, 0, 5, out)
    assert reading._reading.powers(*good) == 5
    for place, wrong in ((0, gain[:4]), (1, x[:4]), (2, 8), (2, 0), (3, -1), (5, out[:4])):
        with pytest.raises(ValueError, match="do not fit"):
            reading._reading.powers(*good[:place], wrong, *good[place + 1 :])


def test_no_period_of_a_noise_escapes_the_frames_looked_at():
    frames = reading.one_in_eight(0, 4096)
    assert len(frames) == 512
    assert set(frames % 8) == set(range(8))
    parts = [reading.one_in_eight(at, at + 37) for at in range(0, 4096, 37)]
    assert np.array_equal(np.concatenate(parts)[:512], frames)


@pytest.mark.skipif(reading._reading is None, reason="built without a C compiler")
def test_the_compiled_reading_refuses_buffers_that_do_not_fit():
    gain, gates, x = np.zeros((4, 9), "f4"), np.zeros((4, 30), np.uint8), np.zeros((4, 9), "c8")
    features, weights = np.arange(5, dtype=np.int32), np.zeros((5, 16), np.int32)
    running, opened = np.zeros((6, 16), np.uint32), np.zeros(5, np.uint16)
    listen, average = reading._reading.listen, reading._reading.average
    good = [
        gain,
        gates,
        x,
        9,
        features,
        weights,
        running,
        opened,
        1,
        np.zeros((6, 2), "f4"),
        2,
        0,
        9,
    ]
    assert listen(*good) == 4
    for place, wrong in (
        (0, gain[:3]), (1, gates[:3, :29]), (2, x[:3]), (3, 0), (3, 8), (4, features + 26),
        (4, features - 1), (4, features // 2), (5, weights[:4]), (6, running[:5]), (7, opened[:4]),
        (8, 2), (8, -1), (9, np.zeros((5, 2), "f4")), (10, -1), (10, 3), (11, -1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="do not fit"):
            listen(*good[:place], np.array(wrong) if np.ndim(wrong) else wrong, *good[place + 1 :])
    running = running[:5]
    columns, one = np.array([(0, -2, 2)], np.int32), np.ones(1)
    out = np.zeros((1, 4))
    average(running, 16, 0, columns, one, one, 0, out)
    for base, which, begin in ((0, columns, 1), (-1, columns, 0), (0, columns + 1, 0)):
        with pytest.raises(ValueError, match="do not fit"):
            average(running, 16, base, which, one, one, begin, out)
    with pytest.raises(ValueError, match="do not fit"):
        average(running, 15, 0, columns, one, one, 0, out)
    with pytest.raises(ValueError, match="do not fit"):
        average(running, 16, 5, columns, one, one, 6, np.zeros((1, 2)))


@pytest.mark.parametrize("compiled", [True, False])
def test_powers_are_what_the_gain_keeps_and_removes(monkeypatch, compiled):
    if not compiled:
        monkeypatch.setattr(reading, "_reading", None)
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((9, 257)) + 1j * rng.standard_normal((9, 257))).astype(np.complex64)
    gain = rng.random((9, 257), np.float32)
    found = powers(gain, x)
    kept, removed = np.abs(gain * x) ** 2, np.abs((1 - gain) * x) ** 2
    expected = np.stack([kept.sum(1), removed.sum(1)], 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for row in range(9):  # the same bits however the recording is cut
        assert np.array_equal(powers(gain[row : row + 1], x[row : row + 1])[0], found[row])
    assert powers(gain[:0], x[:0]).shape == (0, 2)
    for begin, head in ((0, 3), (5, 9), (20, 9)):
        at = np.arange(begin, begin + 9)
        looked_at = (at < head) | (at % 8 == 5 * (at // 8) % 8)
        np.testing.assert_array_equal(powers(gain, x, begin, head), found[looked_at])


def test_ratio_of_kept_to_removed():
    p = np.tile(np.float32([0.0, 0.5]), (100, 1))  # noise all the time
    spoken = np.zeros(100, np.bool_)
    assert kept_to_removed_db(p, spoken) is None
    spoken[20:60] = True
    p[20:50, 0] = 50.0  # speech, and a pause in it
    assert kept_to_removed_db(p, spoken) == pytest.approx(20, abs=1e-4)
    # 30 frames with 50 over 100 with 0.5
    assert kept_to_removed_db(p, spoken, whole=True) == pytest.approx(14.77, abs=0.01)
    p[:20] = p[90:] = 1e-4  # next to nothing: a gate, no quiet noise
    assert kept_to_removed_db(p, spoken) == pytest.approx(20, abs=1e-4)
    p[:, 1] = 0
    assert kept_to_removed_db(p, spoken) == 80
    assert kept_to_removed_db(np.zeros((100, 2), np.float32), spoken) is None


@pytest.mark.parametrize("long", [False, True])
def test_snr_of_a_recording_comes_from_the_gain(engine, speechlike, tmp_path, long):
    path = tmp_path / "p.safetensors"
    write(path, engine, from_gain={"snr_input_db": {"slope": 0.5, "offset": 1.0}})
    probes, seen = load_probes(path), []
    reader = ProbeReader(probes, engine, SegmentRule(min_confidence=0.0))
    stream = Stream(engine, listener=lambda *heard: (reader(*heard), seen.append(heard)))
    sound = np.tile(speechlike, 8) if long else speechlike
    for part in np.split(sound, range(1000, len(sound), 7777)):
        stream.feed(part)
    stream.flush()
    found = reader.finish()
    assert (found.frames > reading.POWERS_HEAD) == long
    assert found.segments, "the random probe hears none"
    gain, _, spectrum = (np.concatenate(part) for part in zip(*seen, strict=True))
    spoken = np.isfinite(found.tracks["snr_input_db"])
    at = reading.one_in_eight(0, found.frames) if long else slice(None)
    ratio = kept_to_removed_db(powers(gain, spectrum)[at], spoken[at])
    assert found.values["snr_input_db"] == pytest.approx(1 + 0.5 * ratio)
