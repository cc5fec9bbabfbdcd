import numpy as np

from dynse.audio.music import music

N = 48_000


def test_music_is_sound():
    for seed in range(30):
        x = music(np.random.default_rng(seed), N)
        assert x.shape == (N,)
        assert x.dtype == np.float32
        assert np.isfinite(x).all()
        assert x.std() > 0.01


def test_the_generator_decides():
    first, again, other = (music(np.random.default_rng(seed), N) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_most_of_it_is_tones():
    """The strongest bin of half a second stands far out of the median one, unlike in noise."""
    peaks = []
    for seed in range(40):
        x = music(np.random.default_rng(seed), N).reshape(-1, 8000) * np.hanning(8000)
        power = np.abs(np.fft.rfft(x)) ** 2
        peaks.append(np.median(power.max(1) / (np.median(power, 1) + 1e-9)))
    assert np.quantile(peaks, 0.1) > 1000
    noise = np.random.default_rng(0).standard_normal((6, 8000)) * np.hanning(8000)
    power = np.abs(np.fft.rfft(noise)) ** 2
    assert np.median(power.max(1) / np.median(power, 1)) < 100


def test_any_length():
    for n in (0, 1, 100):
        assert music(np.random.default_rng(0), n).shape == (n,)
