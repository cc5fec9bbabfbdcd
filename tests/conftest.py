"""A tiny network with lively gates, and signals, shared by all tests."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

from dynse.models.checkpoint import read, save_network
from dynse.models.conv_fsenet import ConvFSENet, ConvFSENetConfig

# A shell that runs the tests in the background has them ignore interruptions, and what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = ConvFSENetConfig(
    bands=48,
    linear_bands=24,
    residual_channels=24,
    hidden_channels=40,
    stacks=2,
    dilations=(1, 2, 4),
    gate_hidden=8,
    gate_fast=3,
)


def lively(network: ConvFSENet, seed: int = 0) -> ConvFSENet:
    """Give normalisations and gates random values, so that folding them wrongly would show."""
    generator = torch.Generator().manual_seed(seed)

    def noise(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=generator)

    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.copy_(0.3 * noise(value))
        elif name.endswith("running_var"):
            value.copy_(0.5 + noise(value) ** 2)
        elif value.is_floating_point():
            scale = value.std() if value.ndim > 1 else 0.3
            value.copy_(scale * noise(value) + (value if value.ndim < 2 else 0))
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.out_features == network.gate_shape[1]:
            module.weight.data *= 2
    return network.eval()


@pytest.fixture(scope="session", name="lively")
def lively_() -> Callable[..., ConvFSENet]:
    return lively


@pytest.fixture(scope="session")
def network() -> ConvFSENet:
    torch.manual_seed(0)
    return lively(ConvFSENet(TINY))


@pytest.fixture(scope="session")
def checkpoint_path(network: ConvFSENet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    header = {
        "name": "tiny",
        "version": 1,
        "sample_rate": 16000,
        "license": "CC0",
        "data": {"speech_hours": 0, "noise_hours": 0, "licenses": {}},
        "scores": {"valid": {"utilisation": 0.5}},
    }
    save_network(path, network, header)
    return path


@pytest.fixture(scope="session")
def engine(checkpoint_path: Path):
    from dynse.models.engine import Engine

    return Engine(read(checkpoint_path))


@pytest.fixture(scope="session")
def speechlike() -> np.ndarray:
    """3 s of amplitude-modulated harmonics with pauses in noise: (48000,) float32."""
    rng = np.random.default_rng(1)
    t = np.arange(48000) / 16000
    voice = sum(np.sin(2 * np.pi * 130 * k * t + k) / k for k in range(1, 20))
    voice *= np.clip(np.sin(2 * np.pi * 1.3 * t), 0, 1) * (0.6 + 0.4 * np.sin(2 * np.pi * 5 * t))
    return (0.1 * voice + 0.01 * rng.standard_normal(len(t))).astype(np.float32)


@pytest.fixture(scope="session")
def probes_path(engine, tmp_path_factory) -> Path:
    """Random probes that hear speech wherever gates are open more than on average."""
    from dynse.probes.probe_file import Probe, save_probes

    rng = np.random.default_rng(0)
    sides, spoken = ("input", "enhanced"), {"kind": "value", "rows": "speech"}
    kinds = [
        Probe("vad", "flag"),
        Probe("voiced", "flag"),
        Probe("gender", "class", ("female", "male"), rows="speech"),
        Probe("category", "class", ("nature", "office", "street"), outputs=3),
        *(Probe(f"snr_{side}_db", limits=(-50, 30), **spoken) for side in sides),
        *(Probe(f"si_sdr_{side}_db", limits=(-50, 30), **spoken) for side in sides),
        *(Probe(f"pesq_{side}", limits=(1.04, 4.64), link="log_above_1", **spoken)
          for side in sides),
        Probe("f0_hz", "value", limits=(50, 800), rows="voiced"),
    ]  # fmt: skip
    placed, first = [], 0
    for kind in kinds:
        placed.append(Probe(**{**kind.__dict__, "first": first}))
        first += kind.outputs
    gates = engine.gate_shape[0] * engine.gate_shape[1]
    weights = 0.1 * rng.standard_normal((32, first))
    bias = np.zeros(first)
    bias[0], bias[1], bias[6], bias[-1] = 1.0, 1.0, 5.0, 150.0
    path = tmp_path_factory.mktemp("probes") / "random.safetensors"
    header = {"name": "random", "model": {"name": engine.name, "sha256": engine.sha256}}
    features = np.sort(rng.permutation(gates)[:32])
    save_probes(path, header, placed, features, weights, bias)
    return path


@pytest.fixture(scope="session")
def strict_json() -> Callable[..., Any]:
    """Parse JSON as RFC 8259 has it, and hold each report against the shipped schema."""
    from dynse.cli.report import SCHEMA_FILE

    schema = json.loads(SCHEMA_FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    def load(text: str | bytes) -> Any:
        found = json.loads(text, parse_constant=refuse)
        for report in found if isinstance(found, list) else [found]:
            validator.validate(report)
        return found

    return load
