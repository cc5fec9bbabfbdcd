import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from dynse.audio.stft import analyse
from dynse.models import engine as engine_module
from dynse.models.checkpoint import CheckpointError, load_network, read, save_network
from dynse.models.conv_fsenet import ConvFSENet, ConvFSENetConfig
from dynse.models.engine import Engine
from dynse.models.evaluation import load_mono
from dynse.models.stream import Stream

KERNELS = [
    pytest.param(
        True,
        marks=pytest.mark.skipif(
            engine_module._engine is None, reason="installed without a C compiler"
        ),
    ),
    False,
]
CONFIGS = [
    ConvFSENetConfig(bands=257),
    ConvFSENetConfig(),
    ConvFSENetConfig(gated=False, hidden_channels=50),
    ConvFSENetConfig(
        bands=60,
        linear_bands=30,
        residual_channels=40,
        hidden_channels=56,
        gate_hidden=12,
        gate_fast=5,
    ),
    ConvFSENetConfig(stacks=2, dilations=(1, 3, 9, 27), residual_channels=150, gate_hidden=20),
    ConvFSENetConfig(stacks=1, dilations=(80,), kernel=5),
    ConvFSENetConfig(bands=40, linear_bands=20, stacks=1, dilations=(1,), kernel=2),
]
IDS = ["bins", "default", "static", "odd", "far", "five taps", "small"]


@pytest.mark.parametrize("compiled", KERNELS)
@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_agrees_with_the_torch_reference(tmp_path, speechlike, lively, config, compiled):
    torch.manual_seed(0)
    save_network(tmp_path / "net.safetensors", lively(ConvFSENet(config)), {"name": "net"})
    checkpoint = read(tmp_path / "net.safetensors")
    frames = analyse(speechlike)
    frames[60:70] = 0
    with torch.no_grad():
        expected = load_network(checkpoint)(torch.from_numpy(frames)[None])
    engine = Engine(checkpoint, compiled=compiled)
    scores = np.empty((len(frames), *engine.gate_shape), np.float32)
    mask, gates, _ = engine.step(frames, engine.initial_state(), scores if config.gated else None)
    same = len(frames)
    if config.gated:
        reference = expected.scores[0].numpy()
        turned = gates != expected.gates[0].numpy()
        # One score in a million lies so near zero that rounding decides; what follows it differs.
        same = int(np.argmax(turned.any(axis=(1, 2)))) if turned.any() else same
        np.testing.assert_allclose(scores[:same], reference[:same], atol=1e-4)
        assert not (turned & (np.abs(reference) > 1e-4))[: same + 1].any()
        assert same > 40
        assert 0.02 < gates.mean() < 0.98
    else:
        assert gates.shape == (len(frames), config.blocks, 0)
    np.testing.assert_allclose(mask[:same], expected.mask[0].numpy()[:same], atol=1e-4)


def test_shipped_model_agrees_with_the_reference_on_every_sample():
    checkpoint = read()
    engine, network = Engine(checkpoint), load_network(checkpoint)
    paths = sorted((Path(__file__).parents[2] / "samples" / "noisy").glob("*.wav"))
    assert len(paths) >= 6
    for path in paths:
        frames = analyse(load_mono(path))
        mask, gates, _ = engine.step(frames, engine.initial_state())
        with torch.no_grad():
            expected = network(torch.from_numpy(frames)[None])
        turned = (gates != expected.gates[0].numpy()).any(axis=(1, 2))
        same = int(np.argmax(turned)) if turned.any() else len(frames)
        if turned.any():  # by rounding only; see benchmarks/exactness.py
            tied = np.abs(expected.scores[0, same].numpy())[
                gates[same] != expected.gates[0, same].numpy()
            ]
            assert tied.min() < 5e-6, path.name
        np.testing.assert_allclose(
            mask[:same], expected.mask[0, :same].numpy(), atol=1e-4, err_msg=path.name
        )


@pytest.mark.parametrize("compiled", KERNELS)
@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_any_cut_gives_the_same_bits(tmp_path, speechlike, lively, config, compiled):
    save_network(tmp_path / "net.safetensors", lively(ConvFSENet(config)), {"name": "net"})
    engine = Engine(read(tmp_path / "net.safetensors"), compiled=compiled)
    frames = analyse(speechlike)
    mask, gates, end = engine.step(frames, engine.initial_state())
    for sizes in ([1] * len(frames), [3, 0, 50, 1, 7, 100], [64] * 2, [len(frames) - 1]):
        state = engine.initial_state()
        parts = [engine.step(part, state)[:2] for part in np.split(frames, np.cumsum(sizes))]
        assert np.array_equal(np.concatenate([m for m, _ in parts]), mask)
        assert np.array_equal(np.concatenate([g for _, g in parts]), gates)
        assert np.array_equal(state.memory, end.memory)
        assert np.array_equal(state.sums, end.sums)


def test_a_copied_state_goes_on_by_itself(engine, speechlike):
    frames = analyse(speechlike)
    state = engine.initial_state()
    engine.step(frames[:20], state)
    kept = state.copy()
    first = engine.step(frames[20:], state)[0]
    assert np.array_equal(engine.step(frames[20:], kept)[0], first)


def test_all_open_runs_every_gate(checkpoint_path, speechlike):
    engine = Engine(read(checkpoint_path), all_open=True)
    _, gates, _ = engine.step(analyse(speechlike), engine.initial_state())
    assert gates.min() == 1


def test_weights_that_do_not_fit_are_refused(network, tmp_path):
    from dataclasses import replace

    from dynse.models.checkpoint import Checkpoint

    save_network(tmp_path / "net.safetensors", network, {"name": "net"})
    good = read(tmp_path / "net.safetensors")
    extra = Checkpoint(good.header, {**good.tensors, "more": np.zeros(1)}, "", good.path)
    with pytest.raises(CheckpointError, match="unknown tensors more"):
        Engine(extra)
    lost = {k: v for k, v in good.tensors.items() if k != "front.weight"}
    with pytest.raises(CheckpointError, match=r"front\.weight"):
        Engine(replace(good, tensors=lost))
    with pytest.raises(CheckpointError, match="unknown architecture 'lstm'"):
        Engine(replace(good, header={**good.header, "architecture": "lstm"}))


@pytest.mark.skipif(engine_module._engine is None, reason="installed without a C compiler")
@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_kernels_for_all_instruction_sets_agree(tmp_path, speechlike, lively, config):
    save_network(tmp_path / "net.safetensors", lively(ConvFSENet(config)), {"name": "net"})
    engine = Engine(read(tmp_path / "net.safetensors"))
    frames = analyse(speechlike)[:102]
    kernels = engine_module._engine.kernels()
    assert kernels[0] == "base"
    masks = []
    try:
        for kernel in kernels:
            engine_module._engine.select(kernel)
            whole, _, end = engine.step(frames, engine.initial_state())
            state = engine.initial_state()
            single = [engine.step(frame[None], state)[0] for frame in frames]
            assert np.array_equal(np.concatenate(single), whole), kernel
            assert np.array_equal(state.memory, end.memory), kernel
            masks.append(whole)
    finally:
        engine_module._engine.select(kernels[-1])
    for kernel, mask in zip(kernels, masks, strict=True):
        np.testing.assert_allclose(mask, masks[0], atol=1e-4, err_msg=kernel)
    with pytest.raises(ValueError, match="no kernel named abacus"):
        engine_module._engine.select("abacus")


@pytest.mark.skipif(engine_module._engine is None, reason="installed without a C compiler")
def test_steady_state_holds_no_memory(engine, speechlike):
    hops = speechlike[: 150 * 256].reshape(150, 256)
    stream = Stream(engine)
    for hop in hops:
        stream.feed(hop)
    tracemalloc.start()
    try:
        for _ in range(3):
            before = tracemalloc.get_traced_memory()[0]
            for hop in hops:
                stream.feed(hop)
            grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 4096  # 150 frames of anything kept would be 100 times that


@pytest.mark.skipif(engine_module._engine is None, reason="installed without a C compiler")
def test_an_outdated_kernel_is_left_alone(monkeypatch):
    import importlib.util

    monkeypatch.setattr(engine_module._engine, "LAYOUT", 1)
    spec = importlib.util.find_spec("dynse.models.engine")
    again = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "dynse.models.engine", again)  # dataclasses look there
    with pytest.warns(UserWarning, match="outdated: pip install"):
        spec.loader.exec_module(again)
    assert again._engine is None


@pytest.mark.skipif(engine_module._engine is None, reason="installed without a C compiler")
def test_kernel_refuses_buffers_of_wrong_size(engine):
    state = engine.initial_state()
    state.memory = state.memory[:-1].copy()
    with pytest.raises(ValueError, match="do not fit"):
        engine.step(np.zeros((1, 257), np.complex64), state)


@pytest.mark.parametrize("command", ["enhance", "probe"])
def test_running_imports_no_training_library(
    command, checkpoint_path, probes_path, tmp_path, speechlike
):
    import soundfile

    soundfile.write(tmp_path / "x.wav", speechlike, 16000)
    arguments = [command, str(tmp_path / "x.wav"), "--model", str(checkpoint_path)]
    if command == "probe":
        arguments += ["--json", "--probes", str(probes_path)]
    code = (
        "import sys\n"
        "from dynse.cli.app import _run\n"
        f"code = _run({arguments!r})\n"
        "heavy = {'torch', 'librosa', 'sklearn', 'pyworld', 'scipy', 'numba', 'pesq', 'pystoi'}\n"
        "sys.exit(code or ' '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
