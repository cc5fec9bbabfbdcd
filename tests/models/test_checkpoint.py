import json

import numpy as np
import pytest
import torch

from dynse.models import checkpoint as checkpoint_module
from dynse.models.checkpoint import CheckpointError, load_network, read, resolve, save


def test_save_load_gives_the_same_output(network, checkpoint_path):
    x = torch.randn(1, 20, 257, dtype=torch.complex64)
    with torch.no_grad():
        assert torch.equal(load_network(checkpoint_path)(x).mask, network(x).mask)


def test_header_says_what_it_is(network, checkpoint_path):
    checkpoint = read(checkpoint_path)
    assert checkpoint.header["architecture"] == "conv_fsenet"
    assert checkpoint.header["dims"] == json.loads(json.dumps(network.config.to_dict()))
    assert len(checkpoint.sha256) == 64


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(CheckpointError, match="shipped models are"):
        read("nope")


@pytest.mark.parametrize("content", [b"", b"RIFF", b"\xff" * 100, b"\x10" + b"\0" * 7 + b"{}" * 8])
def test_damaged_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_other_safetensors_are_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not a dynse model"):
        read(tmp_path / "x.safetensors")


def test_altered_shipped_file_is_refused(checkpoint_path, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "_SHIPPED_DIR", checkpoint_path.parent)
    monkeypatch.setitem(checkpoint_module.SHIPPED, "tiny", "0" * 64)
    with pytest.raises(CheckpointError, match="reinstall dynse"):
        read("tiny")
    monkeypatch.setitem(checkpoint_module.SHIPPED, "tiny", read(checkpoint_path).sha256)
    assert read("tiny").header["name"] == "tiny"


def test_loading_is_strict(checkpoint_path, tmp_path):
    good = read(checkpoint_path)
    tensors = dict(good.tensors)
    del tensors["front.weight"]
    save(tmp_path / "lost.safetensors", tensors, good.header)
    with pytest.raises(CheckpointError, match=r"front\.weight"):
        load_network(tmp_path / "lost.safetensors")
    dims = {**good.header["dims"], "wings": 2}
    save(tmp_path / "odd.safetensors", good.tensors, {**good.header, "dims": dims})
    with pytest.raises(CheckpointError, match="wings"):
        load_network(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("name", sorted(checkpoint_module.SHIPPED))
def test_shipped_models_are_whole(name):
    path, digest = resolve(name)
    checkpoint = read(name)
    assert checkpoint.sha256 == digest
    assert path.stat().st_size < 4e6
    header = checkpoint.header
    assert header["name"] == name
    assert header["license"]
    assert header["data"]["licenses"]
    assert header["scores"]["valid"]["pesq"] > 1.8
    load_network(checkpoint)
