"""`dynse fit-probes` and `dynse probe --probes`, from the command line to the report."""

import csv
import io
import json

import jsonschema
import numpy as np
import pytest
import soundfile

from dynse.cli.app import _run
from dynse.cli.report import SCHEMA_FILE
from dynse.models.checkpoint import read, save


@pytest.fixture
def own(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["path,rate,colour,split"]
    for number in range(12):
        x = rng.standard_normal(16000)
        x = np.diff(x, prepend=0.0) if number % 2 else np.cumsum(x) / 30
        soundfile.write(tmp_path / f"{number}.wav", 0.05 * x / x.std(), 16000)
        split = ("train", "train", "valid", "test")[number // 3]
        rows.append(f"{number}.wav,{number % 2},{'bright' if number % 2 else 'dark'},{split}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    return tmp_path


def test_folders_of_speech_and_noise(corpus_folder, checkpoint_path, tmp_path, monkeypatch, capsys,
                                     no_pesq):  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("dynse.probes.fitting.L2_GRID", (10.0,))
    assert _run(["fit-probes", str(corpus_folder), "--check", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["train"]["gender_minutes"] == {"female": 0.13, "male": 0.13}
    assert set(told["test"]["category_minutes"]) == {"hiss", "rumble"}
    path = tmp_path / "p.safetensors"
    command = ["fit-probes", str(corpus_folder), "-o", str(path), "--minutes", "0.5"]
    command += ["--gates", "16", "-j", "1", "--model", str(checkpoint_path)]
    assert _run(command) == 0
    out = capsys.readouterr().out
    assert "held-out scores (split 'test')" in out
    assert "category: held-out frames in %, rows true" in " ".join(out.split())
    assert _run(command) == 2  # it is there
    # Another model of the same shape is refused.
    other = tmp_path / "other.safetensors"
    checkpoint = read(checkpoint_path)
    save(other, checkpoint.tensors, {**checkpoint.header, "name": "other"})
    soundfile.write(tmp_path / "a.wav", np.zeros(1000), 16000)
    command = ["probe", str(tmp_path / "a.wav"), "--probes", str(path), "--model", str(other)]
    capsys.readouterr()
    assert _run(command) == 2
    assert "fitted for the model 'tiny'" in capsys.readouterr().err


@pytest.mark.parametrize("check", [["--check"], []])
def test_a_folder_that_cannot_be_used_is_refused(check, tmp_path, checkpoint_path, capsys):
    target = ["-o", str(tmp_path / "p.safetensors"), "--model", str(checkpoint_path)]
    (tmp_path / "manifest").mkdir()
    (tmp_path / "manifest/manifest.csv").write_text("path,rate\nnone.wav,1\n")
    for name, why in (("nowhere", "no such folder"), ("", "needs speech.csv and noise.csv"),
                      ("manifest", "no such file 'none.wav'")):  # fmt: skip
        assert _run(["fit-probes", str(tmp_path / name), *check, *target]) == 2
        said = capsys.readouterr().err
        assert why in said
        assert said.count("\n") == 1


def test_data_without_targets_are_refused(own, checkpoint_path, capsys):
    text = (own / "manifest.csv").read_text().replace("bright", "dark")
    rows = [",".join(row.split(",")[::2] + row.split(",")[3:]) for row in text.splitlines()]
    (own / "manifest.csv").write_text("\n".join(rows))
    target = ["-o", str(own / "p.safetensors"), "--model", str(checkpoint_path)]
    assert _run(["fit-probes", str(own), "-q", *target]) == 2
    assert "no targets to fit probes for" in capsys.readouterr().err


def test_a_manifest_of_own_columns(own, checkpoint_path, capsys):
    assert _run(["fit-probes", str(own), "--check"]) == 0
    assert "colour: bright 3, dark 3" in capsys.readouterr().out
    path = own / "own.safetensors"
    model = ["--model", str(checkpoint_path)]
    assert _run(["fit-probes", str(own), "-o", str(path), "--gates", "16", *model]) == 0
    capsys.readouterr()
    assert _run(["probe", str(own / "10.wav"), "--json", "--probes", str(path), *model]) == 0
    report = json.loads(capsys.readouterr().out)
    jsonschema.validate(report, json.loads(SCHEMA_FILE.read_text()))
    assert set(report["custom"]) == {"rate", "colour"}
    assert report["custom"]["rate"] < 0.5
    assert report["snr_db"]["input"] is None
    assert _run(["probe", str(own / "10.wav"), "--probes", str(path), *model]) == 0
    assert "rate" in capsys.readouterr().out
    # The columns of one's own in CSV and conditions.
    (own / "bad.wav").write_text("no sound")
    inputs = [str(own / "bad.wav"), str(own / "10.wav")]
    probes = ["--probes", str(path), *model]
    assert _run(["probe", *inputs, "--csv", *probes]) == 1
    bad, good = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert good["custom.rate"] == str(report["custom"]["rate"])
    assert good["custom.colour"] == report["custom"]["colour"]["label"]
    assert bad["custom.colour"] == ""
    colour = good["custom.colour"]
    wanted = f"custom.rate<0.5 and custom.colour=={colour}"
    assert _run(["probe", inputs[1], "--assert", wanted, *probes]) == 0
    assert _run(["probe", inputs[1], "--assert", f"not ({wanted})", *probes]) == 3
    assert "custom.rate is" in capsys.readouterr().err
    assert _run(["probe", inputs[1], "--assert", "custom.rat<1", *probes]) == 2
    assert "known are custom.rate, custom.colour" in " ".join(capsys.readouterr().err.split())
    only = ["--only-if", f"custom.colour!={colour}", "--csv", "-o", str(own / "x.wav")]
    assert _run(["enhance", inputs[1], *only, *probes]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["custom.colour"] == colour
    assert (own / "x.wav").read_bytes() == (own / "10.wav").read_bytes()
