import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dynse.audio.metrics import stoi
from dynse.audio.mixing import mix_at_snr, synthetic_noise
from dynse.models.evaluation import load_mono
from dynse.models.losses import (
    compressed_spectral_loss,
    difficulty,
    goals,
    intelligibility_loss,
    si_sdr_loss,
    third_octaves,
    utilisation_loss,
)
from dynse.models.spectra import spectrum

SAMPLES = Path(__file__).parents[2] / "samples" / "clean"


def ri(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(x)


def test_compressed_loss_matches_its_formula():
    torch.manual_seed(0)
    s = torch.randn(2, 5, 9, dtype=torch.complex64)
    e = torch.randn(2, 5, 9, dtype=torch.complex64)

    def power(x):
        return x.abs() ** 0.3 * torch.exp(1j * x.angle())

    expected = (
        0.3 * (power(s) - power(e)).abs() ** 2 + 0.7 * (s.abs() ** 0.3 - e.abs() ** 0.3) ** 2
    ).mean()
    torch.testing.assert_close(compressed_spectral_loss(ri(e), ri(s)), expected)
    assert compressed_spectral_loss(ri(s), ri(s)) < 1e-6


def test_si_sdr_loss_of_a_known_ratio_and_any_scale():
    torch.manual_seed(0)
    s, n = torch.randn(2, 1, 400, 40, dtype=torch.complex64)
    n = n - (n * s.conj()).real.sum() / (s.abs() ** 2).sum() * s
    n = n * (s.abs() ** 2).sum().sqrt() / (n.abs() ** 2).sum().sqrt() * 10 ** (-10 / 20)
    loss = si_sdr_loss(ri(3 * (s + n)), ri(s), ceiling_db=200)
    assert loss.item() == pytest.approx(-1.0, abs=0.02)
    assert si_sdr_loss(ri(s), ri(s)).item() == pytest.approx(-3.0, abs=0.01)  # the ceiling
    assert si_sdr_loss(ri(n), torch.zeros(1, 400, 40, 2)).item() == 0


def test_intelligibility_loss_follows_estoi():
    rng = np.random.default_rng(0)
    octaves = third_octaves()
    losses, expected = [], []
    for name in ("hiss_female", "hum_male"):
        clean = load_mono(SAMPLES / f"{name}.wav")
        reference = ri(spectrum(torch.from_numpy(clean)[None]))
        for snr_db in (-10, -5, 0, 5, 10, 20):
            noisy, _ = mix_at_snr(clean, synthetic_noise(rng, len(clean))[0], snr_db)
            estimate = ri(spectrum(torch.from_numpy(noisy)[None]))
            losses.append(intelligibility_loss(estimate, reference, octaves).item())
            expected.append(1 - stoi(clean, noisy, extended=True))
        assert intelligibility_loss(0.1 * reference, reference, octaves).item() < 0.01
    assert np.corrcoef(losses, expected)[0, 1] > 0.9


def test_intelligibility_loss_of_silence_is_nothing_and_has_finite_gradients():
    estimate = torch.randn(2, 40, 257, 2, requires_grad=True)
    loss = intelligibility_loss(estimate, torch.zeros(2, 40, 257, 2), third_octaves())
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(estimate.grad).all()


def test_difficulty_follows_speech_and_snr():
    clean = torch.zeros(1, 300, 4, 2)
    clean[:, 100:] = 1.0
    noise = torch.zeros(1, 300, 4, 2)
    noise[:, :200, :, 0] = 10.0  # about -17 dB
    noise[:, 200:, :, 0] = 0.01  # 43 dB
    more = 1 + 1 / (1 + math.exp((-2 + 13.98) / -2))  # -13.98 dB over all speech frames
    shape = difficulty(clean + noise, clean)[0] / more
    assert shape[50].item() == pytest.approx(0.14, abs=0.001)
    assert shape[150].item() == pytest.approx(0.55, abs=0.01)
    assert shape[250].item() == pytest.approx(0.15, abs=0.01)
    easy = difficulty(clean + noise / 100, clean)[0]
    assert easy[50].item() == pytest.approx(0.02, abs=1e-4)
    assert difficulty(noise, 0 * clean)[0, 50].item() == pytest.approx(0.02 * more, abs=0.02)


def test_goals_have_their_mean_and_keep_the_order_of_hard_frames():
    shape = torch.tensor([[0.05, 0.2, 0.5, 1.0], [0.02, 0.3, 0.6, 1.1]])
    for mean in (0.1, 0.25, 0.62):
        found = goals(shape, torch.tensor(mean))
        assert found.mean().item() == pytest.approx(mean, abs=0.01)
        order = found.flatten()[shape.flatten().argsort()]
        assert (order.diff() > 0.001).all()
        assert found.max() < 0.95


def test_utilisation_loss_is_zero_on_target():
    gates = torch.zeros(2, 10, 3, 8)
    gates[..., :2] = 1
    assert utilisation_loss(gates, torch.full((2, 10), 0.25)).item() == 0
    half = torch.full((2, 10), 0.5)
    assert math.isclose(utilisation_loss(gates, half, 1.0, 0.0).item(), 0.0625)
    assert math.isclose(utilisation_loss(gates, half, 0.0, 2.0).item(), 3 * 0.0625)


def test_utilisation_is_enforced_in_pauses_more_than_in_speech():
    gates = torch.zeros(1, 10, 3, 8)
    gates[..., :2] = 1
    target = torch.full((1, 10), 0.5)
    target[0, :3] = 0.05  # pauses
    loss = utilisation_loss(gates, target, in_speech=0.2, mean_weight=0.0).item()
    assert math.isclose(loss, (3 * 0.2**2 + 7 * 0.2 * 0.25**2) / 10, rel_tol=1e-5)


def test_utilisation_is_enforced_in_all_of_a_hard_mixture():
    gates = torch.zeros(2, 10, 3, 8)
    gates[..., :2] = 1
    target = torch.full((2, 10), 0.4)
    target[1, :3] = 0.05  # an easy one, which has pauses to rest in
    loss = utilisation_loss(gates, target, in_speech=0.0, mean_weight=0.0).item()
    assert math.isclose(loss, (10 * 0.15**2 + 3 * 0.2**2) / 20, rel_tol=1e-5)
