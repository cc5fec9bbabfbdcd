import pytest
import torch

from dynse.models.gating import BIAS_LIMIT, ESTIMATORS, GatingSubnet, binarise, smooth_over_time


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gates_are_binary_and_pass_a_gradient(estimator):
    torch.manual_seed(0)
    score = torch.randn(500, requires_grad=True)
    gate = binarise(score, estimator, training=True)
    torch.testing.assert_close(gate * (1 - gate), torch.zeros(500), atol=1e-6, rtol=0)
    gate.sum().backward()
    assert (score.grad >= 0).all()
    assert score.grad.sum() > 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_threshold_is_zero_outside_training(estimator):
    score = torch.tensor([-1e-6, 0.0, 1e-6])
    assert binarise(score, estimator, training=False).tolist() == [0.0, 0.0, 1.0]


def test_fast_sigmoid_gradient_is_its_derivative():
    score = torch.tensor([0.0, 0.5, -2.0], requires_grad=True)
    binarise(score, "fast_sigmoid", training=True).sum().backward()
    torch.testing.assert_close(score.grad, torch.tensor([1.0, 0.25, 0.04]))


def test_gates_do_not_stick_however_hard_the_bias_is_pushed():
    torch.manual_seed(0)
    gating = GatingSubnet(channels=12, gates=30, hidden=8, window=5).train()
    gating.bias.data[:15] = -50.0
    gating.bias.data[15:] = 50.0
    score, _ = gating(torch.randn(16, 200, 12), torch.zeros(16, 4, 8))
    share = (score > 0).float().mean((0, 1))
    assert BIAS_LIMIT == 2.0
    # Two sigma of a normal distribution are 2.3 %; a skewed score may fall short of that.
    assert ((share > 0.002) & (share < 0.998)).float().mean() > 0.9


def test_smoothing_keeps_constants_to_the_ends():
    x = torch.full((1, 20), 0.3)
    torch.testing.assert_close(smooth_over_time(x, 9), x)
