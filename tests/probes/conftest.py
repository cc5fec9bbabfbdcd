"""A small corpus in a folder, and probes with random weights for the tiny network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16000


def voice(rng: np.random.Generator, f0: float, seconds: float) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(f0 * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * t + f0))) / RATE
    x = sum(np.sin(k * phase) / k for k in range(1, 16))
    return 0.1 * x * np.clip(np.sin(2 * np.pi * 1.5 * t), 0, 1) + 1e-5 * rng.standard_normal(len(t))


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data")
    rows = ["speaker,gender,accent,split"]
    for number in range(8):
        gender, f0 = ("male", 110) if number % 2 else ("female", 220)
        split = ("train", "train", "valid", "test")[number // 2]
        rows.append(f"s{number},{gender},en,{split}")
        (folder / "clean" / f"s{number}").mkdir(parents=True)
        for take in range(2):
            x = voice(rng, f0 + 3 * number + take, 2.0)
            soundfile.write(folder / "clean" / f"s{number}" / f"{take}.wav", x, RATE)
    (folder / "speakers.csv").write_text("\n".join(rows))
    rows = ["name,category,split"]
    for category in ("hiss", "rumble"):
        for number, split in enumerate(("train", "valid", "test")):
            x = rng.standard_normal(4 * RATE)
            x = np.diff(x, prepend=0.0) if category == "hiss" else np.cumsum(x) / 30
            name = f"{category}{number}.wav"
            (folder / "noise").mkdir(exist_ok=True)
            soundfile.write(folder / "noise" / name, 0.05 * x / np.abs(x).max(), RATE)
            rows.append(f"{name},{category},{split}")
    (folder / "noise.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def no_pesq(monkeypatch):
    """PESQ takes most of the time, and has its own test."""
    monkeypatch.setattr(
        "dynse.probes.targets.pesq_track",
        lambda clean, estimate, speech, jobs: np.where(
            speech, 1.1 + np.linspace(0, 2, len(speech)), np.nan
        ).astype(np.float32),
    )
