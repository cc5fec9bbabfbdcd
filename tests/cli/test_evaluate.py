import csv
import json
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from dynse.audio.metrics import pesq_wb, si_sdr
from dynse.cli.app import _run
from dynse.models.checkpoint import read, save_network
from dynse.models.conv_fsenet import ConvFSENet, ConvFSENetConfig


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


def test_what_else_lies_in_the_folders_does_not_matter(pairs, checkpoint_path, capsys):
    for name in ("clean/.DS_Store", "clean/0.txt", "noisy/notes.md", "noisy/._0.flac"):
        (pairs / name).write_text("no sound")
    assert evaluate(pairs, checkpoint_path, "--json", "-j", "1") == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 2
    (pairs / "clean/0.flac").write_text("no sound")
    assert evaluate(pairs, checkpoint_path) == 2
    assert "0.flac has the same name" in capsys.readouterr().err


@pytest.mark.parametrize("frames", [0, 1, 3000])
def test_next_to_no_sound_has_no_scores(pairs, checkpoint_path, capsys, frames):
    (pairs / "noisy/0.flac").unlink()  # FLAC does not go without samples
    for path in (pairs / "clean/0.wav", pairs / "noisy/0.wav"):
        soundfile.write(path, 0.1 * np.cos(np.arange(frames)), 16000)
    assert evaluate(pairs, checkpoint_path, "--json", "-j", "1") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    first = report["files"][0]
    assert first["name"] == "0.wav"
    assert first["noisy"]["stoi"] is first["enhanced"]["estoi"] is first["noisy"]["pesq"] is None
    assert (first["noisy"]["si_sdr_db"] is None) == (frames < 3000)
    assert (first["utilisation"] is None) == (frames == 0)
    assert err == ""
    for name in ("clean/1.wav", "noisy/1.flac"):
        (pairs / name).unlink()
    for form in ([], ["--json"]):
        assert evaluate(pairs, checkpoint_path, *form, "-j", "1") == 0


def test_a_static_network(pairs, checkpoint_path, tmp_path, capsys):
    tiny = ConvFSENetConfig.from_dict(read(checkpoint_path).header["dims"])
    network = ConvFSENet(replace(tiny, gated=False))
    header = {"name": "[/static]", "version": 1, "sample_rate": 16000, "scores": {"valid": {}}}
    save_network(tmp_path / "static.safetensors", network.eval(), header)
    assert evaluate(pairs, tmp_path / "static.safetensors", "--json", "-j", "1") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["mean"]["utilisation"] is None
    assert evaluate(pairs, tmp_path / "static.safetensors", "-j", "1") == 0
    assert "[/static]: enhanced" in capsys.readouterr().out


def test_tables_that_are_none(pairs, checkpoint_path, capsys):
    table = pairs / "t.csv"
    told = ("--table", str(table), "--by", "snr_db", "-j", "1")
    for content, why in (
        (b"nam\xe9,snr_db\n0.flac,1\n", "is no CSV in UTF-8"),
        (b"name,snr_db\n0.flac," + b"1" * 200_000, "is no CSV in UTF-8"),
        (b"", "has no column name"),
        (b"name,snr_db\n0.flac,1\n", "has no row for 1.flac"),
    ):
        table.write_bytes(content)
        assert evaluate(pairs, checkpoint_path, *told) == 2
        said = capsys.readouterr().err
        assert why in " ".join(said.replace("│", " ").split())
        assert "internal" not in said
    table.write_bytes(b"name,snr_db,[/room]\n0.flac,5,[/a]\n1.flac\n")
    assert evaluate(pairs, checkpoint_path, *told, "--by", "[/room]") == 0
    assert "[/room] [/a] (1)" in capsys.readouterr().out
    assert evaluate(pairs, checkpoint_path, *told[:2]) == 2  # a table to group by nothing


def test_a_worker_that_dies_is_told_of(pairs, checkpoint_path, capsys, monkeypatch):
    def die(*_):
        raise BrokenProcessPool

    monkeypatch.setattr("dynse.models.evaluation.ProcessPoolExecutor.map", die)
    assert evaluate(pairs, checkpoint_path, "-j", "2") == 1
    assert "a worker process died" in capsys.readouterr().err
