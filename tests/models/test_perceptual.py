"""The differentiable PESQ against the standard's program."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dynse.audio.metrics import pesq_wb
from dynse.audio.mixing import mix_at_snr, synthetic_noise
from dynse.models.evaluation import load_mono
from dynse.models.perceptual import PerceptualDistance
from dynse.models.spectra import spectrum

SAMPLES = Path(__file__).parents[2] / "samples" / "clean"


def power(x: np.ndarray) -> torch.Tensor:
    return spectrum(torch.from_numpy(np.asarray(x, np.float32))[None]).abs() ** 2


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    return PerceptualDistance()


def test_agrees_with_the_standard_program(distance: PerceptualDistance):
    rng = np.random.default_rng(3)
    ours, theirs = [], []
    for name in ("hiss_female", "hum_male", "rain_female"):
        clean = load_mono(SAMPLES / f"{name}.wav")
        for snr_db in (-5, 5, 15, 25, 35):
            noise = synthetic_noise(rng, len(clean))[0]
            noisy, _ = mix_at_snr(clean, noise, snr_db)
            ours.append(distance(power(noisy), power(clean)).mos_lqo.item())
            theirs.append(pesq_wb(clean, noisy))
    assert np.corrcoef(ours, theirs)[0, 1] > 0.97
    assert np.abs(np.array(ours) - theirs).mean() < 0.15


def test_does_not_hear_level_and_scores_identity_best(distance: PerceptualDistance):
    clean = load_mono(SAMPLES / "rain_female.wav")
    same = distance(power(0.03 * clean), power(clean))
    assert same.penalty.item() < 0.01
    assert same.mos_lqo.item() == pytest.approx(4.64, abs=0.01)


def test_is_worst_where_most_is_added(distance: PerceptualDistance):
    clean = load_mono(SAMPLES / "rain_female.wav")
    noise = synthetic_noise(np.random.default_rng(0), len(clean))[0]
    penalties = [
        distance(power(mix_at_snr(clean, noise, snr)[0]), power(clean)).penalty.item()
        for snr in (20, 10, 0)
    ]
    assert penalties == sorted(penalties)


def test_gradients_are_finite_and_lead_uphill(distance: PerceptualDistance):
    clean = load_mono(SAMPLES / "hum_male.wav")
    noisy = mix_at_snr(clean, synthetic_noise(np.random.default_rng(1), len(clean))[0], 5)[0]
    x, reference = power(noisy), power(clean)
    gain = torch.full_like(x, 0.8, requires_grad=True)
    before = distance(gain**2 * x, reference).penalty.mean()
    before.backward()
    assert torch.isfinite(gain.grad).all()
    moved = gain.detach() - 1e-3 * gain.grad / gain.grad.abs().max()
    assert distance(moved**2 * x, reference).penalty.mean() < before


def test_digital_silence_gives_finite_values(distance: PerceptualDistance):
    silence = torch.zeros(1, 60, 257, requires_grad=True)
    penalty = distance(silence, torch.zeros(1, 60, 257)).penalty
    penalty.sum().backward()
    assert torch.isfinite(penalty).all()
    assert torch.isfinite(silence.grad).all()
