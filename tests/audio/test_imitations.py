import numpy as np
import pytest
from scipy import signal
from scipy.stats import kurtosis

from dynse.audio import imitations
from dynse.audio.imitations import KINDS, imitation

N = 48_000
CATEGORY = {make.__name__: category for category, makers in KINDS.items() for make in makers}


def many(kind, count=20):
    return [getattr(imitations, kind)(np.random.default_rng(seed), N) for seed in range(count)]


@pytest.mark.parametrize("kind", CATEGORY)
def test_each_kind_is_sound(kind):
    for x in many(kind):
        assert x.shape == (N,)
        assert np.isfinite(x).all()
        assert x.std() > 0.01
    first, again = many(kind, 1) + many(kind, 1)
    assert np.array_equal(first, again)
    assert not np.array_equal(*many(kind, 2))


def test_a_category_gives_its_kinds_alone_and_none_gives_all():
    rng = np.random.default_rng(0)
    seen = {}
    for _ in range(150):
        x, category, kind = imitation(rng, 800)
        assert x.dtype == np.float32
        seen[kind] = category
    assert seen == CATEGORY
    for category in KINDS:
        kinds = {imitation(rng, 800, category)[1:] for _ in range(60)}
        assert kinds == {(c, kind) for kind, c in CATEGORY.items() if c == category}


def test_any_length():
    for kind in CATEGORY:
        for n in (1, 100, 20_000):
            assert getattr(imitations, kind)(np.random.default_rng(0), n).shape == (n,)


def test_strokes_and_drops_stick_out():
    """Impulsive sounds have a kurtosis that noise (0) and tones (below 0) do not have."""
    assert np.median([kurtosis(x) for x in many("keys")]) > 10
    assert np.median([kurtosis(x) for x in many("rain")]) > 1
    assert abs(np.median([kurtosis(x) for x in many("cabin")])) < 0.5


def test_engines_rumble():
    """Most of the power of what drives and flies is below 1 kHz; of rain it is not."""

    def low(kind):
        spectra = [np.abs(np.fft.rfft(x)) ** 2 for x in many(kind)]
        return np.median([s[:3000].sum() / s.sum() for s in spectra])

    assert min(low(kind) for kind in ("vehicle", "propeller", "cabin", "rails")) > 0.6
    assert low("rain") < 0.4


def test_blades_beat_at_their_rate():
    """The strongest modulation below 60 Hz is at a harmonic of the 9 to 35 Hz of the blades."""
    x = imitations.propeller(np.random.default_rng(3), 4 * N)
    envelope = np.abs(
        signal.hilbert(signal.sosfilt(signal.butter(2, 900, "high", fs=16000, output="sos"), x))
    )
    power = np.abs(np.fft.rfft((envelope - envelope.mean()) * np.hanning(len(x)))) ** 2
    hertz = np.fft.rfftfreq(len(x), 1 / 16000)
    band = (hertz > 5) & (hertz < 60)
    assert power[band].max() > 50 * np.median(power[band])


def test_gusts_swell():
    levels = [20 * np.log10(x.reshape(-1, 4000).std(1)) for x in many("wind")]
    steady = [20 * np.log10(x.reshape(-1, 4000).std(1)) for x in many("cabin")]
    assert np.median([level.std() for level in levels]) > 2 * np.median([s.std() for s in steady])
