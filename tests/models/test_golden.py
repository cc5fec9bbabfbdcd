"""What each shipped model makes of the samples, to the third decimal: no change goes unseen.

`scripts/ship` writes the figures when a model is shipped.
"""

import json
from pathlib import Path

import pytest

from dynse.models.checkpoint import SHIPPED
from dynse.models.engine import load
from dynse.models.evaluation import score_pair

HERE = Path(__file__).parent
SAMPLES = HERE.parents[1] / "samples"
GOLDEN = json.loads((HERE / "golden.json").read_text())


def test_every_shipped_model_has_golden_figures():
    assert {name: entry["sha256"] for name, entry in GOLDEN.items()} == SHIPPED


@pytest.mark.parametrize(
    ("model", "sample"), [(m, s) for m, entry in GOLDEN.items() for s in entry["samples"]]
)
def test_scores_are_those_of_the_release(model: str, sample: str):
    entry = GOLDEN[model]["samples"][sample]
    found = score_pair(load(model), SAMPLES / "clean" / sample, SAMPLES / "noisy" / sample)
    assert found.utilisation == pytest.approx(entry["utilisation"], abs=1e-3)
    assert found.enhanced == pytest.approx(entry["enhanced"], abs=1e-3)
