import csv
import json

import numpy as np
import pytest
import soundfile

from dynse.audio.metrics import pesq_wb, si_sdr
from dynse.cli.app import _run


@pytest.fixture
def pairs(tmp_path, speechlike):
    rng = np.random.default_rng(0)
    for folder in ("clean", "noisy"):
        (tmp_path / folder).mkdir()
    for i, level in enumerate((0.005, 0.05)):
        noise = level * rng.standard_normal(len(speechlike))
        soundfile.write(tmp_path / "clean" / f"{i}.wav", speechlike, 16000, subtype="FLOAT")
        soundfile.write(
            tmp_path / "noisy" / f"{i}.flac", speechlike + noise, 16000, subtype="PCM_24"
        )
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["name", "snr_db"], ["0.flac", "20"], ["1.flac", "0"]])
    return tmp_path


def evaluate(folder, model, *arguments):
    return _run(
        [
            "evaluate",
            str(folder / "clean"),
            str(folder / "noisy"),
            "--model",
            str(model),
            *arguments,
        ]
    )


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_scores_are_those_of_the_metrics(pairs, checkpoint_path, capsys, speechlike, jobs):
    assert evaluate(pairs, checkpoint_path, "--json", "-j", jobs) == 0
    report = json.loads(capsys.readouterr().out)
    noisy, _ = soundfile.read(pairs / "noisy/1.flac", dtype="float32")
    second = report["files"][1]
    assert second["name"] == "1.flac"
    assert second["noisy"]["pesq"] == pytest.approx(pesq_wb(speechlike, noisy))
    assert second["noisy"]["si_sdr_db"] == pytest.approx(si_sdr(speechlike, noisy), abs=1e-3)
    mean = report["mean"]
    for metric in ("pesq", "stoi", "estoi", "si_sdr_db"):
        values = [file["enhanced"][metric] for file in report["files"]]
        assert mean["enhanced"][metric] == pytest.approx(np.mean(values))
        assert mean["gain"][metric] == pytest.approx(
            mean["enhanced"][metric] - mean["noisy"][metric]
        )
    gates = mean["gates"]
    assert gates["all"] == 240
    assert 0 < gates["block_min"] <= mean["utilisation"] <= gates["block_max"] < 1
    assert mean["mmac_per_s"] > 0


def test_groups_follow_the_table(pairs, checkpoint_path, capsys):
    arguments = ("--table", str(pairs / "table.csv"), "--by", "snr_db", "--json", "-j", "1")
    assert evaluate(pairs, checkpoint_path, *arguments) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]["snr_db"]
    assert list(groups) == ["0", "20"]
    assert groups["0"]["noisy"]["si_sdr_db"] < groups["20"]["noisy"]["si_sdr_db"]


def test_table_is_readable_on_80_columns(pairs, checkpoint_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert evaluate(pairs, checkpoint_path, "-j", "1") == 0
    out = capsys.readouterr().out
    assert "WB-PESQ" in out
    assert "…" not in out


def test_pairs_without_noise_are_apart(pairs, checkpoint_path, capsys):
    for folder in ("clean", "noisy"):
        x, _ = soundfile.read(pairs / "clean/0.wav")
        soundfile.write(pairs / folder / "same.wav", x, 16000, subtype="FLOAT")
        soundfile.write(pairs / folder / "silent.wav", 0 * x, 16000, subtype="FLOAT")
    assert evaluate(pairs, checkpoint_path, "--json", "-j", "1") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["noise_free"]["files"] == 1
    assert report["mean"]["files"] == 3
    assert report["mean"]["scored"]["si_sdr_db"] == 2
    assert report["mean"]["noisy"]["si_sdr_db"] < 40


def test_refusals_are_one_line(pairs, checkpoint_path, capsys):
    (pairs / "clean/extra.wav").write_bytes(b"")
    assert evaluate(pairs, checkpoint_path) == 2
    assert "without a counterpart: extra" in capsys.readouterr().err
    assert _run(["evaluate", "/nowhere", "/nowhere", "--model", str(checkpoint_path)]) == 2
    (pairs / "clean/extra.wav").unlink()
    assert evaluate(pairs, checkpoint_path, "--by", "snr_db") == 2
    assert evaluate(pairs, "nope") == 2
    assert "shipped models are" in capsys.readouterr().err
    soundfile.write(pairs / "clean/0.wav", np.zeros(100), 16000)
    assert evaluate(pairs, checkpoint_path, "-j", "1") == 1
    assert "its reference has 100" in capsys.readouterr().err
