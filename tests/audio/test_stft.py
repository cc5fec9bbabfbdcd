import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynse.audio import stft

LENGTHS = [0, 1, 100, 255, 256, 257, 511, 512, 513, 5000]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def stream(x, cuts, channels=None):
    """Frames and samples with the input cut into pieces of the given lengths, in turn."""
    analysis, synthesis = stft.Analysis(channels), stft.Synthesis(channels)
    frames, samples, at, turn = [], [], 0, 0
    while at < len(x):
        frames.append(analysis.feed(x[at : at + cuts[turn % len(cuts)]]))
        samples.append(synthesis.feed(frames[-1]))
        at += cuts[turn % len(cuts)]
        turn += 1
    frames.append(analysis.flush())
    samples.append(synthesis.flush(frames[-1], analysis.samples))
    return np.concatenate(frames), np.concatenate(samples)


def test_window_squares_add_to_one():
    w = stft.window().astype(np.float64)
    np.testing.assert_allclose(w[: stft.HOP] ** 2 + w[stft.HOP :] ** 2, 1, atol=1e-7)
    assert not stft.window().flags.writeable


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_synthesis_inverts_analysis(n, channels):
    x = noise(n) if channels is None else noise(n, channels)
    frames = stft.analyse(x)
    assert frames.dtype == np.complex64
    assert frames.shape == (stft.frame_count(n), *x.shape[1:], stft.BINS)
    assert len(frames) == (np.ceil(n / stft.HOP) + 1 if n else 0)
    y = stft.synthesise(frames, n)
    assert y.dtype == np.float32
    assert y.shape == x.shape
    np.testing.assert_allclose(y, x, atol=2e-6)


def test_frame_covers_the_samples_around_its_centre():
    x = noise(4000)
    frame = stft.analyse(x)[5]
    expected = np.fft.rfft(x[4 * 256 : 6 * 256].astype(np.float64) * stft.window())
    np.testing.assert_allclose(frame, expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3000), st.lists(st.integers(1, 1500), min_size=1, max_size=8), st.booleans())
def test_any_cut_gives_the_same_bits(n, cuts, stereo):
    x = noise(n, 2) if stereo else noise(n)
    frames, samples = stream(x, cuts, 2 if stereo else None)
    whole = stft.analyse(x)
    np.testing.assert_array_equal(frames, whole)
    np.testing.assert_array_equal(samples, stft.synthesise(whole, n))


def test_single_samples_and_empty_blocks():
    x = noise(700)
    np.testing.assert_array_equal(stream(x, [1])[1], stft.synthesise(stft.analyse(x), 700))
    analysis = stft.Analysis()
    assert analysis.feed(x[:0]).shape == (0, stft.BINS)
    assert analysis.flush().shape == (0, stft.BINS)


def test_channels_do_not_touch_each_other():
    x = noise(3000, 3)
    np.testing.assert_array_equal(stft.analyse(x)[:, 1], stft.analyse(x[:, 1].copy()))


def test_samples_leave_one_hop_after_their_frame():
    analysis, synthesis = stft.Analysis(), stft.Synthesis()
    assert len(synthesis.feed(analysis.feed(noise(256)))) == 0
    assert len(synthesis.feed(analysis.feed(noise(256)))) == 256


@pytest.mark.parametrize("shape", [(5, 2), (5, 3, 1), ()])
def test_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match="got shape"):
        stft.Analysis().feed(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="got shape"):
        stft.Synthesis(2).feed(np.zeros((4, 257), np.complex64))
