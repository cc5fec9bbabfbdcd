import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dynse
from dynse.models.stream import Enhancer, Settings, Stream, enhance


def run(stream, x, cuts):
    parts = [stream.feed(part) for part in np.split(x, cuts)]
    return np.concatenate([*parts, stream.flush()])


@given(cuts=st.lists(st.integers(0, 9000), max_size=12).map(sorted), length=st.integers(0, 9000))
@settings(max_examples=40, deadline=None)
def test_any_cut_gives_the_same_bits(engine, speechlike, cuts, length):
    x = speechlike[:length]
    whole = run(Stream(engine), x, [])
    assert len(whole) == length
    assert np.array_equal(run(Stream(engine), x, cuts), whole)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
@pytest.mark.parametrize("mode", ["linked", "independent", "mono"])
def test_any_cut_gives_the_same_bits_at_any_rate(engine, rate, mode):
    rng = np.random.default_rng(0)
    x = (0.1 * rng.standard_normal((rate, 2))).astype(np.float32)
    outs = []
    for size in (rate, 1000, 37):
        enhancer = Enhancer(engine, rate, 2, Settings(channel_mode=mode))
        parts = [enhancer.feed(x[i : i + size]) for i in range(0, len(x), size)]
        outs.append(np.concatenate([*parts, enhancer.flush()]))
    assert outs[0].shape == (rate, 1 if mode == "mono" else 2)
    assert np.array_equal(outs[0], outs[1])
    assert np.array_equal(outs[0], outs[2])


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("untouched", [{"atten_lim_db": 0.0}, {"mix": 0.0}])
def test_limit_or_mix_of_zero_returns_the_input_exactly(engine, rate, untouched):
    rng = np.random.default_rng(0)
    x = (0.3 * rng.standard_normal((rate // 2, 2))).astype(np.float32)
    assert np.array_equal(enhance(engine, x, rate, Settings(**untouched)), x)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_an_impulse_stays_where_it_was(engine, rate):
    x = np.zeros(rate, np.float32)
    x[rate // 3] = 1.0
    y = enhance(engine, x, rate)
    assert np.argmax(np.abs(y)) == rate // 3


def test_no_bin_is_attenuated_beyond_the_limit(engine, speechlike):
    quiet = enhance(engine, speechlike, settings=Settings(atten_lim_db=6.0))
    full = enhance(engine, speechlike)
    loss = 10 * np.log10(np.mean(speechlike**2) / np.mean(quiet**2))
    assert 0 < loss < 6.1
    assert np.mean(full**2) < np.mean(quiet**2)


def test_mix_is_linear(engine, speechlike):
    full = enhance(engine, speechlike)
    half = enhance(engine, speechlike, settings=Settings(mix=0.5))
    np.testing.assert_allclose(half, (full + speechlike) / 2, atol=1e-6)


def test_level_of_the_recording_does_not_matter(engine, speechlike):
    a = enhance(engine, speechlike)
    b = enhance(engine, speechlike * np.float32(10 ** (-30 / 20)))
    np.testing.assert_allclose(b * 10 ** (30 / 20), a, atol=2e-4)


def test_linked_channels_share_one_gain(engine, speechlike):
    x = np.stack([speechlike, -0.5 * speechlike], axis=1)
    y = enhance(engine, x)
    np.testing.assert_allclose(y[:, 1], -0.5 * y[:, 0], atol=1e-6)
    mono = enhance(engine, speechlike)
    np.testing.assert_allclose(y[:, 0], mono, atol=1e-4)


def test_independent_channels_are_as_if_alone(engine, speechlike):
    other = np.roll(speechlike, 7000)
    y = enhance(
        engine, np.stack([speechlike, other], 1), settings=Settings(channel_mode="independent")
    )
    assert np.array_equal(y[:, 0], enhance(engine, speechlike))
    assert np.array_equal(y[:, 1], enhance(engine, other))


def test_silence_stays_silent_and_recovers(engine, speechlike):
    gap = np.zeros(16000 * 5, np.float32)
    y = enhance(engine, np.concatenate([speechlike, gap, speechlike]))
    assert np.isfinite(y).all()
    assert not y[48000 + 512 : 48000 + len(gap) - 512].any()
    again = y[48000 + len(gap) :]
    assert np.sqrt(np.mean(again[8000:] ** 2)) > 0.5 * np.sqrt(np.mean(y[8000:48000] ** 2))
    assert not enhance(engine, gap).any()


def test_listener_hears_every_frame(engine, speechlike):
    seen = []
    enhance(engine, speechlike, listener=lambda *heard: seen.append(heard))
    frames = -(-len(speechlike) // 256) + 1
    assert sum(len(gain) for gain, _, _ in seen) == frames
    assert all(gates.shape[1:] == engine.gate_shape for _, gates, _ in seen)
    assert all(spectrum.shape == gain.shape for gain, _, spectrum in seen)


def test_masks_are_those_of_the_last_feed(engine, speechlike):
    seen = []
    stream = Stream(engine, listener=lambda _, gates, __: seen.append(gates))
    assert stream.masks.shape == (0, *engine.gate_shape)
    found = []
    for part in np.split(speechlike, [10, 600, 700, 30000]):
        stream.feed(part)
        found.append(stream.masks)
    stream.flush()
    found.append(stream.masks)
    assert [len(masks) for masks in found] == [0, 2, 0, 115, 70, 2]
    assert np.array_equal(np.concatenate(found), np.concatenate(seen))


def test_latency_is_what_a_click_needs(engine):
    x = np.zeros(16000, np.float32)
    at = 256 * 20  # the worst case: first sample of a hop
    x[at] = 1.0
    stream, out = Stream(engine), 0
    for i in range(16000):
        out += len(stream.feed(x[i : i + 1]))
        if out > at:
            break
    assert i + 1 - at == stream.latency


def test_model_enhances_arrays_of_any_rate(engine, speechlike):
    assert np.array_equal(engine.enhance(speechlike), enhance(engine, speechlike))
    x = np.stack([speechlike, speechlike], 1)
    assert np.array_equal(engine.enhance(x, 44100), enhance(engine, x, 44100))


@pytest.mark.parametrize("module", ["engine", "stream"])
def test_examples_run(module):
    import doctest
    import importlib

    found = doctest.testmod(importlib.import_module(f"dynse.models.{module}"))
    assert found.attempted > 2
    assert found.failed == 0


def test_what_lies_above_8_khz(engine):
    rate, n = 48000, 48000
    t = np.arange(n) / rate
    high = (0.2 * np.sin(2 * np.pi * 15000 * t)).astype(np.float32)
    rng = np.random.default_rng(0)
    low = (0.01 * rng.standard_normal(n)).astype(np.float32)

    def level(band):
        y = enhance(engine, high + low, rate, Settings(band=band))
        spectrum = np.abs(np.fft.rfft(y[4800:-4800] * np.hanning(n - 9600)))
        return spectrum[round(15000 * (n - 9600) / rate)]

    keep, model, drop = level("keep"), level("model"), level("drop")
    original = np.abs(np.fft.rfft(high[4800:-4800] * np.hanning(n - 9600))).max()
    assert keep == pytest.approx(original, rel=0.01)
    assert drop < 0.01 * original
    assert drop < model < keep


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros((2, 1000)), 16000, "shape"),
        (np.zeros((10, 0)), 16000, "shape"),
        (np.float32(1), 16000, "shape"),
        (np.zeros((10, 1, 1)), 16000, "shape"),
        (np.zeros(10, np.int16), 16000, "int16"),
        (None, 16000, "shape"),
        ([0.0, np.nan], 16000, "NaN"),
        ([0.0, -np.inf], 16000, "NaN"),
        ([0.0, 3e38], 16000, "absurd"),
        ([0.0, 0.1], 44100.5, "sample rate"),
        ([0.0, 0.1], "16000", "sample rate"),
        ([0.0, 0.1], 3999, "sample rate"),
    ],
)
def test_what_is_no_sound_is_refused(engine, samples, rate, message):
    with pytest.raises(dynse.DynseError, match=message):
        engine.enhance(samples, rate)


def test_a_stream_refuses_what_is_no_sound_and_goes_on(engine, speechlike):
    stream = Stream(engine)
    first = stream.feed(speechlike[:1000])
    for bad in (np.zeros((5, 2), np.float32), np.full(5, np.nan, np.float32), np.zeros(5, int)):
        with pytest.raises(dynse.DynseError, match="samples"):
            stream.feed(bad)
    rest = [stream.feed(speechlike[1000:]), stream.flush()]
    np.testing.assert_array_equal(np.concatenate([first, *rest]), enhance(engine, speechlike))
    for after in (lambda: stream.feed(speechlike), stream.flush):
        with pytest.raises(dynse.DynseError, match="flushed"):
            after()
    with pytest.raises(dynse.DynseError, match="channels"):
        Stream(engine, 0)


def test_public_names():
    assert set(dynse.__all__) <= set(dir(dynse)) | set(dynse._PLACES)
    for name in dynse.__all__:
        assert getattr(dynse, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = dynse.nothing
