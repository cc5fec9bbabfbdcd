import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from dynse.audio.stft import analyse
from dynse.cli.app import _run
from dynse.models.checkpoint import read
from dynse.models.export import state_names


@pytest.fixture(scope="module")
def exported(checkpoint_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    assert _run(["export", "--onnx", str(path), "--model", str(checkpoint_path)]) == 0
    return path


def test_onnx_steps_agree_with_the_engine(exported, engine, speechlike, network):
    frames = analyse(speechlike)[:80]
    frames[30:33] = 0
    mask, gates, _ = engine.step(frames, engine.initial_state())
    session = onnxruntime.InferenceSession(str(exported))
    names = state_names(network.config.blocks)
    shapes = {node.name: node.shape for node in session.get_inputs()}
    state = {name: np.zeros(shapes[name], np.float32) for name in names}
    for i, frame in enumerate(frames):
        real = np.stack([frame.real, frame.imag], -1)[None, None].astype(np.float32)
        out = session.run(None, {"frame": real, **state})
        np.testing.assert_allclose(out[0][0], mask[i], atol=1e-4)
        np.testing.assert_array_equal(out[1][0], gates[i])
        state = dict(zip(names, out[2:], strict=True))


def test_onnx_carries_the_header(exported, checkpoint_path):
    about = onnxruntime.InferenceSession(str(exported)).get_modelmeta().custom_metadata_map
    checkpoint = read(checkpoint_path)
    assert json.loads(about["dynse"]) == checkpoint.header
    assert about["dynse_sha256"] == checkpoint.sha256


def test_existing_file_is_kept(exported, checkpoint_path, capsys):
    assert _run(["export", "--onnx", str(exported), "--model", str(checkpoint_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["onnx", "onnxscript"])
def test_without_the_packages_of_the_extra_nothing_can_be_done(
    name, checkpoint_path, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, name, None)
    path = tmp_path / "x.onnx"
    assert _run(["export", "--onnx", str(path), "--model", str(checkpoint_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"needs the package {name}: pip install 'dynse[export]'" in said
    assert "compiler" not in said
    assert not path.exists()


def test_what_cannot_be_exported_is_told_before_any_work(checkpoint_path, tmp_path, capsys):
    path = str(tmp_path / "x.onnx")
    assert _run(["export", "--onnx", path, "--model", "nope"]) == 2
    assert "shipped models are" in capsys.readouterr().err
    path = str(tmp_path / "none" / "x.onnx")
    assert _run(["export", "--onnx", path, "--model", str(checkpoint_path)]) == 2
    assert "no folder" in capsys.readouterr().err
    path = ["--onnx", str(tmp_path), "--overwrite"]
    assert _run(["export", *path, "--model", str(checkpoint_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_nothing_but_the_size_is_told(checkpoint_path, tmp_path):
    command = [sys.executable, "-m", "dynse", "export", "--onnx", str(tmp_path / "x.onnx")]
    command += ["--model", str(checkpoint_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(" MB\n")
