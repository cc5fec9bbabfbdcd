import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynse.audio.resampling import Bands, StreamResampler, resampled_length
from dynse.audio.stft import HOP, SAMPLE_RATE, frame_count

RATES = [4000, 8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000, 384000]


def noise(*shape, seed=0):
    return (0.2 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def pieces(n, cuts):
    at, turn = 0, 0
    while at < n:
        end = min(at + cuts[turn % len(cuts)], n)
        yield slice(at, end)
        at, turn = end, turn + 1


def resample(x, rate_in, rate_out, cuts=(1 << 30,)):
    resampler = StreamResampler(rate_in, rate_out, x.shape[1])
    parts = [resampler.feed(x[part]) for part in pieces(len(x), cuts)]
    return np.concatenate([*parts, resampler.flush()])


def through_bands(x, rate, mode, change, gain, cuts=(1 << 30,)):
    """Cut `x`, let `change` make the enhanced low band and `gain(l)` the gains, put together."""
    bands = Bands(rate, x.shape[1], mode)
    out, total, sent = [], 0, 0
    for part in pieces(len(x), cuts):
        low = bands.split(x[part])
        total += len(low)
        # As an STFT does: gains come with whole frames.
        hops = np.arange(sent, max(total // HOP, sent))
        sent += len(hops)
        out.append(bands.merge(change(low), gain(hops)))
    low = bands.end_split()
    total += len(low)
    assert total == resampled_length(len(x), rate, SAMPLE_RATE)
    out.append(bands.merge(change(low), gain(np.arange(sent, frame_count(total)))))
    out.append(bands.end_merge())
    return np.concatenate(out)


def same(low):
    return low


def ones(hops):
    return np.ones(len(hops))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 1001])
def test_length(rate, n):
    for rate_in, rate_out in [(rate, 16000), (16000, rate)]:
        y = resample(noise(n, 2), rate_in, rate_out)
        assert y.dtype == np.float32
        assert y.shape == (resampled_length(n, rate_in, rate_out), 2)
        assert abs(len(y) - n * rate_out / rate_in) <= 0.5


@pytest.mark.parametrize("rate", RATES)
def test_impulse_stays_where_it_was(rate):
    for rate_in, rate_out in [(rate, 16000), (16000, rate)]:
        x = np.zeros((rate_in // 2, 1), np.float32)
        at = rate_in // 4 + 3
        x[at] = 1
        energy = resample(x, rate_in, rate_out)[:, 0].astype(np.float64) ** 2
        centre = (energy * np.arange(len(energy))).sum() / energy.sum()
        assert centre == pytest.approx(at * rate_out / rate_in, abs=0.05)


@pytest.mark.parametrize("rate", RATES)
def test_tone_keeps_amplitude_and_phase(rate):
    # Also at the far end of a longer signal: nothing drifts.
    for rate_in, rate_out in [(rate, 16000), (16000, rate)]:
        t_in, t_out = np.arange(3 * rate_in) / rate_in, np.arange(3 * rate_out) / rate_out
        y = resample(np.sin(2 * np.pi * 440 * t_in)[:, None], rate_in, rate_out)[:, 0]
        margin = rate_out // 10
        expected = np.sin(2 * np.pi * 440 * t_out)
        np.testing.assert_allclose(y[margin:-margin], expected[margin:-margin], atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(RATES),
    st.booleans(),
    st.integers(0, 20000),
    st.lists(st.integers(1, 6000), min_size=1, max_size=5),
)
def test_any_cut_gives_the_same_bits(rate, up, n, cuts):
    rates = (16000, rate) if up else (rate, 16000)
    x = noise(n, 2)
    np.testing.assert_array_equal(resample(x, *rates, cuts), resample(x, *rates))


def test_equal_rates_pass_through():
    x = noise(1000, 2)
    np.testing.assert_array_equal(resample(x, 44100, 44100, [7]), x)


@pytest.mark.parametrize("rate", [3999, 384001, 0])
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(ValueError, match=r"4000\.\.384000"):
        StreamResampler(rate, 16000, 1)
    with pytest.raises(ValueError, match=r"4000\.\.384000"):
        Bands(rate, 1)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("mode", ["model", "keep"])
def test_untouched_low_band_and_unit_gain_give_the_input(rate, mode):
    for n in [0, 1, 5, rate // 3 + 1]:
        x = noise(n, 2)
        y = through_bands(x, rate, mode, same, ones, cuts=[777, 5000])
        np.testing.assert_array_equal(y, x)


def test_double_precision_comes_out_as_it_was():
    for rate in [16000, 48000]:
        x = noise(3000, 1) + np.float64(1e-12)
        np.testing.assert_array_equal(through_bands(x, rate, "model", same, ones), x)


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 192000])
@pytest.mark.parametrize("mode", ["model", "keep", "drop"])
def test_bands_any_cut_gives_the_same_bits(rate, mode):
    x = noise(rate // 2 + 11, 2)

    def gain(hops):
        return 0.5 + 0.5 * np.sin(hops)

    y = through_bands(x, rate, mode, lambda low: 0.3 * low, gain)
    assert y.shape == x.shape
    for cuts in [[1000], [333, 4096, 17], [64]]:
        z = through_bands(x, rate, mode, lambda low: 0.3 * low, gain, cuts)
        np.testing.assert_array_equal(z, y)


@pytest.mark.parametrize("rate", [44100, 48000, 96000])
def test_gain_reaches_only_what_the_model_does_not_see(rate):
    t = np.arange(rate) / rate
    low, high = np.sin(2 * np.pi * 1000 * t), np.sin(2 * np.pi * 12000 * t)
    x = (0.4 * (low + high))[:, None].astype(np.float32)
    middle = slice(rate // 4, -rate // 4)
    for mode, g in [("model", 0.25), ("keep", 1), ("drop", 0)]:
        y = through_bands(x, rate, mode, lambda e: 0.5 * e, lambda h: np.full(len(h), 0.25))
        expected = 0.4 * (0.5 * low + g * high)
        np.testing.assert_allclose(y[middle, 0], expected[middle], atol=2e-4)


def test_gain_runs_straight_between_hops():
    rate, hops = 48000, frame_count(16000)
    x = (0.5 * np.sin(2 * np.pi * 15000 * np.arange(rate) / rate))[:, None].astype(np.float32)
    gains = np.random.default_rng(1).uniform(0, 1, hops)
    y = through_bands(x, rate, "model", same, lambda h: gains[h])
    g = np.interp(np.arange(rate) / 3, np.arange(hops) * HOP, gains)
    np.testing.assert_allclose(y[3000:-3000, 0], (g * x[:, 0])[3000:-3000], atol=1e-3)


def test_gain_of_each_channel():
    x = noise(9600, 2)
    y = through_bands(x, 48000, "model", same, lambda h: np.tile([1.0, 0.0], (len(h), 1)))
    np.testing.assert_array_equal(y[:, 0], x[:, 0])
    assert np.abs(y[:, 1] - x[:, 1]).max() > 0.1


def test_bands_hold_only_what_is_under_way():
    bands = Bands(48000, 1)
    held = []
    for _ in range(40):
        low = bands.split(noise(4800, 1))
        bands.merge(low, np.ones(len(low) // HOP + 1))
        held.append(len(bands._original))
    assert max(held[5:]) < 15000
    assert len(bands._gains) < 200


def test_misuse_is_told():
    bands = Bands(48000, 1)
    with pytest.raises(ValueError, match="more samples than split gave"):
        bands.merge(np.zeros((5, 1), np.float32), np.ones(1))
    bands = Bands(48000, 1)
    bands.split(noise(4800, 1))
    bands.end_split()
    with pytest.raises(ValueError, match="samples missing"):
        bands.end_merge()
    with pytest.raises(ValueError, match="'model', 'keep', 'drop'"):
        Bands(48000, 1, "loud")  # type: ignore[arg-type]
