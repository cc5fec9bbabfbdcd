"""Several channels heard as one."""

import numpy as np
import pytest

from dynse.models.linking import Link


def spectra(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def test_one_channel_is_heard_as_it_is():
    x = spectra(40, 1, 257)
    assert np.array_equal(Link(1)(x), x[:, 0])


@pytest.mark.parametrize("turns", [(1, 1), (1, -1), (1, 1j), (1, -1j, np.exp(2j)), (1, 0.5j, 0)])
def test_what_channels_share_adds_up_in_power_whatever_its_phase(turns):
    x = spectra(60, 257)
    heard = Link(len(turns))(np.stack([turn * x for turn in turns], axis=1).astype(np.complex64))
    level = np.sqrt(np.mean(np.abs(turns) ** 2))
    np.testing.assert_allclose(np.abs(heard), level * np.abs(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_noises_of_their_own_are_heard_as_one_noise(channels):
    x = spectra(1500, channels, 257)
    heard = np.abs(Link(channels)(x))
    assert np.mean(heard**2) == pytest.approx(2, rel=0.03)
    # The log-magnitude of a complex Gaussian deviates by pi / sqrt(24), of mean powers much less.
    one, mean = np.pi / np.sqrt(24), np.log(np.mean(np.abs(x) ** 2, axis=1)).std() / 2
    assert mean < 0.64 * one
    assert 0.84 * one < np.log(heard).std() < one


def test_nothing_depends_on_how_frames_are_cut():
    x = spectra(200, 3, 257)
    link = Link(3)
    parts = [link(x[first:last]) for first, last in ((0, 1), (1, 18), (18, 18), (18, 200))]
    assert np.array_equal(np.concatenate(parts), Link(3)(x))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("level", [0, 1e-30, 1e-12, 2.0**56])
def test_silence_and_extreme_levels(level):
    x = spectra(30, 257) * np.float32(level)
    heard = np.abs(Link(2)(np.stack([x, -x], axis=1)))
    np.testing.assert_allclose(heard, np.abs(x), rtol=1e-4)
