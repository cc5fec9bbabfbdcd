"""The command that redraws the paper's figures, on a corpus of seconds."""

import json
import sys

import pytest

from dynse.probes.fit import fit_probes

mask_probes = pytest.importorskip("dynse.benchmarks.mask_probes", reason="not in the wheel")


def test_one_command_draws_all_figures(
    corpus_folder, checkpoint_path, engine, tmp_path, monkeypatch, no_pesq
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("dynse.probes.fitting.L2_GRID", (10.0,))
    monkeypatch.setattr("dynse.probes.fitting.MAX_ROWS", 2000)
    path = tmp_path / "probes.safetensors"
    fit_probes(corpus_folder, engine, path, minutes=1, pesq_minutes=1, count=16)
    out = tmp_path / "figures"
    arguments = ["--model", checkpoint_path, "--probes", path, "--minutes", 1, "--pesq-minutes", 1]
    arguments += ["--max-rows", 500, "--points", 200, "--out", out]
    monkeypatch.setattr(sys, "argv", ["x", str(corpus_folder), *map(str, arguments)])
    mask_probes.main()
    report = json.loads((out / "scores.json").read_text())
    sets = {"spectrum", "suppression", "masks", "top64", "first2", "scores", "shipped"}
    assert set(report["scores"]) == sets
    vad = report["scores"]["masks"]["vad"]
    assert vad["accuracy"] > vad["baseline_accuracy"]
    assert 0 <= report["speakers"]["masks"]["1"]["eer"] <= 1
    for name in ("scores", "tsne", "coefficients", "speakers"):
        assert (out / f"{name}.png").stat().st_size > 5000
