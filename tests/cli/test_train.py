import json

import numpy as np
import pytest
import soundfile

from dynse.cli.app import _run
from dynse.models.checkpoint import read, save


@pytest.fixture
def data(tmp_path, speechlike):
    rng = np.random.default_rng(0)
    for i in range(3):
        for folder in (f"data/clean/speaker{i}", "data/noise"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        voice = np.roll(speechlike, 5000 * i)
        soundfile.write(tmp_path / f"data/clean/speaker{i}/a.wav", voice, 16000)
        noise = 0.1 * rng.standard_normal(32000)
        soundfile.write(tmp_path / f"data/noise/{i}.wav", noise, 16000)
    return tmp_path / "data"


def train(data, out, *arguments):
    quick = ("--batch", "2", "--seconds", "1", "--valid-mixtures", "8", "--no-compile", "--no-bf16")
    return _run(["train", str(data), "--out", str(out), "--workers", "0", *quick, *arguments])


def test_goes_on_from_a_model_with_its_dimensions(data, tmp_path, checkpoint_path, capsys):
    out = tmp_path / "run"
    assert train(data, out, "--init", str(checkpoint_path), "--steps", "1", "--bank", "4") == 0
    header = read(out / "last.safetensors").header
    assert header["dims"] == read(checkpoint_path).header["dims"]
    assert header["training"]["steps"] == 1
    assert train(data, out, "--init", str(checkpoint_path), "--steps", "1", "--bank", "4") == 0
    assert "all 1 steps are done" in capsys.readouterr().err
    assert train(data, out, "--init", str(checkpoint_path), "--seed", "7") == 2
    assert "belongs to a run with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [True, False])
def test_gates_are_asked_unless_refused(data, tmp_path, checkpoint_path, asked):
    options = () if asked else ("--no-readouts",)
    init = ("--init", str(checkpoint_path), "--steps", "1")
    assert train(data, tmp_path / "run", *init, *options) == 0
    (record,) = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert (json.loads(record)["train"]["readouts"] > 0) == asked


def test_refuses_other_dimensions_than_those_of_the_model(data, tmp_path, checkpoint_path, capsys):
    for option in (("--static",), ("--hidden", "64")):
        assert train(data, tmp_path / "run", "--init", str(checkpoint_path), *option) == 2
        assert "--init brings its own dimensions" in capsys.readouterr().err
    save(tmp_path / "x.safetensors", {}, {})
    assert train(data, tmp_path / "run", "--init", str(tmp_path / "x.safetensors")) == 2
    assert "damaged model (KeyError: 'dims')" in capsys.readouterr().err
