import numpy as np
import pytest
import torch

from dynse.audio.stft import analyse
from dynse.models.bands import band_weights
from dynse.models.compute import count_macs
from dynse.models.conv_fsenet import ConvFSENet, ConvFSENetConfig
from dynse.models.spectra import inverse, spectrum


@pytest.mark.parametrize(
    ("config", "reach"),
    [(ConvFSENetConfig(), 140), (ConvFSENetConfig(stacks=3, dilations=(1, 2, 4)), 42)],
    ids=["default", "the paper's"],
)
def test_blocks_look_back_as_documented(config, reach):
    network = ConvFSENet(config)
    assert network.gate_shape == (9, 128)
    assert sum(config.reach) == reach
    assert [block.dilation for block in network.blocks] == [r // 2 for r in config.reach]


@pytest.mark.parametrize(("bands", "linear"), [(112, 64), (48, 24), (256, 128), (257, 64)])
def test_bands_interpolate_between_bins(bands, linear):
    matrix = band_weights(bands, linear)
    assert matrix.shape == (257, bands)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    assert (matrix.sum(0) > 0).all(), "a band without a bin"
    np.testing.assert_array_equal(matrix[:linear, :linear], np.eye(linear))


def test_future_frames_do_not_matter(network):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 60, 257, dtype=torch.complex64, generator=generator)
    y = x.clone()
    y[:, 40:] = 7.0
    with torch.no_grad():
        a, b = network(x), network(y)
    torch.testing.assert_close(a.mask[:, :40], b.mask[:, :40], rtol=0, atol=0)
    assert not torch.equal(a.mask[:, 40:], b.mask[:, 40:])


def test_splitting_into_steps_changes_nothing(network):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 50, 257, dtype=torch.complex64, generator=generator)
    with torch.no_grad():
        whole = network(x)
        state, masks, gates = None, [], []
        for part in x.split((1, 7, 20, 22), dim=1):
            out = network(part, state)
            state = out.state
            masks.append(out.mask)
            gates.append(out.gates)
    torch.testing.assert_close(torch.cat(masks, 1), whole.mask, rtol=0, atol=1e-5)
    assert torch.equal(torch.cat(gates, 1), whole.gates)


@pytest.mark.parametrize("gain", [1e-4, 0.03, 30.0])
def test_level_does_not_matter(network, speechlike, gain):
    x = torch.from_numpy(analyse(speechlike))[None]
    with torch.no_grad():
        a, b = network(x), network(x * gain)
    torch.testing.assert_close(a.mask, b.mask, rtol=0, atol=2e-3)


def test_digital_silence_leaves_level_and_floor_alone(network, speechlike):
    x = torch.from_numpy(analyse(speechlike))[None]
    state = network.initial_state()
    _, before = network.features(x, state)
    features, after = network.features(torch.zeros(1, 500, 257, dtype=torch.complex64), before)
    torch.testing.assert_close(after.level, before.level, rtol=0, atol=0)
    torch.testing.assert_close(after.floor, before.floor, rtol=0, atol=0)
    assert torch.isfinite(features).all()
    silent, _ = network.features(torch.zeros(1, 3, 257, dtype=torch.complex64), state)
    assert torch.equal(silent, torch.zeros_like(silent))


def test_closed_gates_silence_both_convolutions(network, speechlike):
    """With all gates closed, what the block computes cannot reach the output."""
    block = network.blocks[0]
    x = torch.randn(1, 9, 24)
    pooling, history = network.initial_state().pooling[0], network.initial_state().history[0]
    bias = block.gating.bias.data.clone()
    mean = block.gating.norm.running_mean.clone()
    try:
        block.gating.norm.running_mean.fill_(1e4)
        with torch.no_grad():
            y, gates, _, _, after = block(x, pooling, history)
    finally:
        block.gating.bias.data.copy_(bias)
        block.gating.norm.running_mean.copy_(mean)
    assert gates.sum() == 0
    assert after.abs().sum() == 0
    torch.testing.assert_close(y, (x + block.outward.bias).detach())


def test_pooled_hidden_units_equal_pooled_channels(network):
    """The pooling is moved behind the first layer, which is linear: the paper's order agrees.

    The last units are not pooled at all.
    """
    gating = network.blocks[1].gating
    x = torch.randn(1, 30, 24)
    with torch.no_grad():
        score, _ = gating(x, torch.zeros(1, gating.window - 1, 8))
        padded = torch.cat([torch.zeros(1, gating.window - 1, 24), x], 1)
        pooled = padded.unfold(1, gating.window, 1).mean(-1)
        slow, fast = gating.squeeze(pooled)[..., :5], gating.squeeze(x)[..., 5:]
        hidden = torch.relu(torch.cat([slow, fast], -1) + gating.hidden_bias)
        weight, bias = gating.folded()
        expected = hidden @ weight.T + bias
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)


def test_macs_match_the_published_static_network():
    # systems.md: 662,528 MAC a frame at 128/256 channels, front and back 65.8 k, no subnets.
    dims = ConvFSENetConfig(bands=257, hidden_channels=256, gated=False).to_dict()
    count = count_macs(dims)
    front_and_back = 257 * 128 * 2
    # Our front end has a second input, the noise floor: 257 * 128 more.
    assert count.per_frame() - 257 * 128 == front_and_back + 9 * (2 * 128 * 256 + 3 * 256)
    assert count.per_frame() - 257 * 128 == 662_528


def test_macs_count_every_weight_once():
    network = ConvFSENet()
    products = sum(p.numel() for name, p in network.named_parameters() if p.ndim == 2)
    assert count_macs(network.config.to_dict()).per_frame() == products
    assert count_macs(network.config.to_dict()).per_frame(0.25) < 0.52 * products


def test_torch_stft_is_the_packages(speechlike):
    x = torch.from_numpy(speechlike[:40_001])[None]
    frames = spectrum(x)
    np.testing.assert_allclose(frames[0].numpy(), analyse(speechlike[:40_001]), atol=2e-5)
    torch.testing.assert_close(inverse(frames, 40_001), x, rtol=0, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_features_on_a_gpu_are_those_of_a_cpu(network):
    x = torch.randn(3, 60, 257, dtype=torch.complex64)
    x[1, :20] = 0  # digital silence leaves level and floor alone
    with torch.no_grad():
        here = network(x)
        there = network.cuda()(x.cuda())
        network.cpu()
    torch.testing.assert_close(there.state.floor.cpu(), here.state.floor, rtol=0, atol=1e-6)
    torch.testing.assert_close(there.mask.cpu(), here.mask, rtol=0, atol=1e-4)
