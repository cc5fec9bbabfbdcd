"""`dynse models` shows the card that `scripts/ship` writes into the header of a checkpoint."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from dynse.cli.app import _run
from dynse.models.checkpoint import DEFAULT, SHIPPED, load_network, read, save
from dynse.models.engine import load
from dynse.probes.probe_file import load_probes

ROOT = Path(__file__).parents[2]
SCORES = {"pesq": 2.5, "stoi": 0.9, "estoi": 0.8, "si_sdr_db": 12.0}
NOTHING = dict.fromkeys(SCORES)
FAILURES = {
    "music alone": {
        "what": "Plucked notes.",
        "noisy": NOTHING,
        "enhanced": NOTHING,
        "removed_db": 8.75,
        "probes": {"vad_accuracy": 0.98, "gender": {"right": 0, "wrong": 2}, "f0_error": None},
    },
    "telephone": {
        "what": "Mu-law at 8 kHz.",
        "noisy": SCORES,
        "enhanced": {**SCORES, "pesq": 2.0},
        "removed_db": 2.5,
        "probes": {"vad_accuracy": 0.7},
    },
}


def card(capsys, *arguments):
    assert _run(["models", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_a_name_shows_the_whole_card(capsys, checkpoint_path, tmp_path):
    tiny = read(checkpoint_path)
    run = {"steps": 8000, "hours_of_audio": 106.7, "hours": 0.5}
    header = {**tiny.header, "known_failures": FAILURES, "averaged": 2, "gates_opened_by": 0.2}
    header["training"] = {
        **run,
        "config": {"loss": {"alpha": 0.3}},
        "before": [{**run, "steps": 9, "after": {"averaged": 3}}],
    }
    header["scores"] = {
        **tiny.header["scores"],
        "test": {"mean": SCORES, "snr_db": {"10": SCORES, "-5": SCORES}, "clean": SCORES},
    }
    save(tmp_path / "x.safetensors", tiny.tensors, header)
    shown = card(capsys, tmp_path / "x.safetensors")
    for line in (
        "    9 steps, 106.7 h of mixtures, 0.5 h\n    scripts/open-gates: averaged 3\n",
        "      alpha 0.3\n    scripts/open-gates: averaged 2, gates opened by 0.2\n",
        "    -5 dB: WB-PESQ 2.5, STOI 0.9, ESTOI 0.8, SI-SDR dB 12\n    10 dB",
        "    music alone: Plucked notes.\n      removed 8.75 dB\n"
        "      probes: gender 0 right/2 wrong, vad_accuracy 0.98\n",
        "      WB-PESQ 2.5 -> 2, STOI",
    ):
        assert line in shown
    (row,) = json.loads(card(capsys, tmp_path / "x.safetensors", "--json"))
    assert row["known_failures"] == FAILURES
    assert row["training"]["before"][0]["steps"] == 9


def test_what_a_checkpoint_does_not_say_is_said(capsys, checkpoint_path):
    shown = card(capsys, checkpoint_path)
    for part in ("recipe", "test set", "known failures"):
        assert f"  {part}: not stated\n" in shown


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_have_a_card(capsys, name):
    shown = card(capsys, name)
    assert "steps" in shown
    assert "without noise: WB-PESQ" in shown


def test_unknown_model_is_refused(capsys):
    assert _run(["models", "nope"]) == 2
    assert "shipped models are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({}, "damaged model (KeyError: 'dims')"),
        ([], "damaged header (no JSON object)"),
        ({"dims": 3}, "damaged model"),
        (None, "damaged model"),
    ],
)
def test_a_header_that_says_too_little_is_refused(capsys, checkpoint_path, tmp_path, header, why):
    tiny = read(checkpoint_path)
    lame = {**tiny.header, "known_failures": {"control": {}}}  # the card alone needs more
    save(tmp_path / "x.safetensors", tiny.tensors, lame if header is None else header)
    for shown in ([], ["--json"]) if header is not None else ([],):
        assert _run(["models", str(tmp_path / "x.safetensors"), *shown]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert why in said.err
        assert said.err.count("\n") == 1


def test_a_model_without_a_name_is_none(capsys):
    assert _run(["models", ""]) == 2


@pytest.fixture
def ship(tmp_path, monkeypatch):
    """`scripts/ship` as if the repository were at tmp_path; gives the header it wrote."""
    for folder in ("scripts", "models/weights", "probes/weights", "tests/models"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    (tmp_path / "scripts/ship").write_text((ROOT / "scripts/ship").read_text())

    def run(source, name, sha256):
        model = {"model": {"sha256": sha256}}
        quality = {"mean": {"enhanced": SCORES, "utilisation": 0.3}, "clean": SCORES, "snr_db": {}}
        (tmp_path / "quality.json").write_text(json.dumps({**model, **quality}))
        (tmp_path / "f.json").write_text(json.dumps({**model, "conditions": FAILURES}))
        reports = [tmp_path / "quality.json", tmp_path / "f.json"]
        monkeypatch.setattr(sys, "argv", list(map(str, ["ship", source, name, "CC0", *reports])))
        runpy.run_path(str(tmp_path / "scripts/ship"))
        return read(tmp_path / f"models/weights/{name}.safetensors")

    return run


def test_new_weights_are_shipped_with_scores_and_failures(ship, checkpoint_path, tmp_path):
    tiny = read(checkpoint_path)
    shipped = ship(checkpoint_path, "tiny", tiny.sha256)
    assert shipped.header["known_failures"] == FAILURES
    assert shipped.header["version"] == 1
    assert shipped.header["scores"]["test"]["mean"] == SCORES
    load_network(shipped)
    with pytest.raises(AssertionError, match="another checkpoint"):
        ship(checkpoint_path, "tiny", "0" * 64)


def test_the_same_weights_keep_version_and_probes(ship, tmp_path):
    before = read(DEFAULT)
    after = ship(DEFAULT, DEFAULT, before.sha256)
    assert after.header["known_failures"] == FAILURES
    assert after.header["version"] == before.header["version"]
    assert after.sha256 != before.sha256
    table = json.loads((tmp_path / "probes/weights/shipped.json").read_text())
    (name,) = [key for key, entry in table.items() if entry["model"] == after.sha256]
    probes = load_probes(tmp_path / f"probes/weights/{name}.safetensors")
    assert probes.sha256 == table[name]["sha256"]
    engine = load(after.path)
    probes.check_model(engine.name, engine.sha256, engine.gate_shape[0] * engine.gate_shape[1])
