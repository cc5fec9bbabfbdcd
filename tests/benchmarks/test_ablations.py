from dataclasses import asdict

import pytest
import torch

from dynse.benchmarks import ablations
from dynse.models.conv_fsenet import ConvFSENet, ConvFSENetConfig
from dynse.models.training import Trainer


def differences(a, b, path=""):
    return {
        name
        for key in a
        for name in (
            differences(a[key], b[key], f"{path}{key}.")
            if isinstance(a[key], dict)
            else {f"{path}{key}"}
        )
        if isinstance(a[key], dict) or a[key] != b[key]
    }


@pytest.mark.parametrize("name", ablations.VARIANTS)
def test_a_variant_is_one_change(name):
    base, variant = (asdict(ablations.recipe(n, 1000, 100)) for n in ("base", name))
    changed = differences(base, variant)
    by_trainer = ablations.VARIANTS[name].trainer is not Trainer
    if name == "units-8":  # half of them are pooled, as in the base
        assert changed == {"model.gate_hidden", "model.gate_fast"}
    else:
        assert len(changed) + by_trainer == (name != "base")


def test_held_gates_turn_at_every_other_frame():
    torch.manual_seed(0)
    network = ConvFSENet(ConvFSENetConfig(residual_channels=16, hidden_channels=8)).eval()
    x = torch.randn(1, 41, 257, dtype=torch.complex64)
    free = network(x).gates
    ablations.hold(network)
    held = network(x).gates
    assert torch.equal(held[:, 0:40:2], held[:, 1:41:2])
    assert held.shape == free.shape
    assert not torch.equal(free[:, 0:40:2], free[:, 1:41:2])
    first = (slice(None), slice(0, 41, 2), 0)  # the first block hears the same
    assert torch.equal(held[first], free[first])


def test_the_table_has_a_row_a_variant():
    row = {
        "what": "a thing", "mmac_per_s": 12.3, "pesq": 2.0, "si_sdr_db": 11.0, "utilisation": 0.5,
        "utilisation_no_speech": 0.3,
    }  # fmt: skip
    text = ablations.as_table({"base": row, "other": row})
    assert text.count("| a thing | 12.3 | 0.50 | 0.30 | 2.000 | 11.00 |") == 2
