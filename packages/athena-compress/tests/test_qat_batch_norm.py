"""Batch normalization folded during quantization-aware training, against the two layers it stands for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from athena_compress import QAT, Grid
from athena_compress._int8_layer import Int8Layer
from athena_compress._qat_batch_norm import QATBatchNormLayer
from athena_compress._qat_ranges import WeightRange

PAIRS = {
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, bias=False), lambda: nn.BatchNorm2d(4), (5, 3, 6, 6)),
    "grouped with bias": (lambda: nn.Conv1d(4, 6, 3, groups=2), lambda: nn.BatchNorm1d(6), (5, 4, 7)),
    "cumulative": (lambda: nn.Conv1d(4, 6, 1), lambda: nn.BatchNorm1d(6, momentum=None), (5, 4, 7)),
    "linear": (lambda: nn.Linear(4, 6), lambda: nn.BatchNorm1d(6, affine=False), (9, 4)),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
        lambda: nn.BatchNorm2d(6, eps=0.01),
        (3, 4, 4, 4),
    ),
}


class Exact(WeightRange):
    """No rounding at all."""

    def forward(self, x):
        return x

    def qparams(self, x):
        raise NotImplementedError


def randomized(norm):
    with torch.no_grad():
        if norm.affine:
            norm.weight.uniform_(-2, 2)
            norm.bias.uniform_(-1, 1)
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    return norm


@pytest.mark.parametrize("name", PAIRS)
def test_without_rounding_it_is_the_two_layers(name):
    make_layer, make_norm, shape = PAIRS[name]
    two = nn.Sequential(make_layer(), randomized(make_norm())).double()
    layer, norm = copy.deepcopy(two)
    one = QATBatchNormLayer(layer, norm, Exact(Grid(axis=0)), None)
    for _ in range(3):
        x = torch.randn(shape, dtype=torch.float64)
        weights = torch.randn_like(two(x))
        two.zero_grad()
        one.zero_grad()
        # `two` moved its statistics above, to give the shape
        one.norm.load_state_dict(copy.deepcopy(two[1].state_dict()))
        y, expected = one(x), two(x)
        assert torch.allclose(y, expected, atol=1e-10)
        (y * weights).sum().backward()
        (expected * weights).sum().backward()
        for mine, its in zip([*layer.parameters(), *norm.parameters()], two.parameters(), strict=True):
            assert torch.allclose(mine.grad, its.grad, atol=1e-9)
        for mine, its in zip(norm.buffers(), two[1].buffers(), strict=True):
            assert torch.allclose(mine, its, atol=1e-12)
    two.eval()
    one.eval()
    x = torch.randn(shape, dtype=torch.float64)
    assert torch.allclose(one(x), two(x), atol=1e-10)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("ranges", ["observed", "learned"])
def test_evaluation_and_the_converted_layer_agree(name, ranges):
    make_layer, make_norm, shape = PAIRS[name]
    model = nn.Sequential(make_layer(), randomized(make_norm()), nn.ReLU())
    qat = QAT(model, ranges=ranges).train()
    assert isinstance(qat.model[0], QATBatchNormLayer)
    assert isinstance(qat.model[1], nn.Identity)
    optimizer = torch.optim.SGD(qat.parameters(), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        qat(torch.randn(shape)).square().mean().backward()
        optimizer.step()
    small = qat.eval().convert()
    assert isinstance(small[0], Int8Layer)
    x = torch.randn(shape)
    assert torch.allclose(small(x), qat(x), rtol=1e-5, atol=2e-5)


def test_the_folded_weight_is_what_is_rounded():
    conv, norm = nn.Conv1d(2, 3, 1), randomized(nn.BatchNorm1d(3))
    qat = QAT(nn.Sequential(conv, norm), weight_bits=3).train()
    qat(torch.randn(8, 2, 4))
    small = qat.eval().convert()[0]
    inner = qat.model[0]
    factor = norm.weight / (inner.norm.running_var + norm.eps).sqrt()
    folded = conv.weight * factor[:, None, None]
    codes = folded / small.weight_scale[:, None, None]
    assert torch.allclose(small.weight_scale, folded.abs().amax((1, 2)) / 3, rtol=1e-5)
    assert torch.equal(codes.round().to(torch.int8).flatten(), small.weight_q.flatten())


def test_statistics_freeze_after_so_many_steps():
    qat = QAT(nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3)), freeze_batch_norm_after=2).train()
    norm = qat.model[0].norm
    seen = []
    for _ in range(4):
        y = qat(torch.randn(8, 2, 4) * 3 + 1)
        seen.append((norm.running_mean.clone(), int(norm.num_batches_tracked)))
    assert not torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[1][0], seen[2][0])
    assert torch.equal(seen[1][0], seen[3][0])
    assert [count for _, count in seen] == [1, 2, 2, 2]
    y.sum().backward()
    assert norm.weight.grad is not None  # they are trained on
    assert qat.model[0].layer.weight.grad is not None


def test_a_norm_that_cannot_be_folded_stays():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    qat = QAT(Branches()).train()
    assert isinstance(qat.model.norm, nn.BatchNorm1d)
    x = torch.randn(4, 2, 3)
    qat(x)
    small = qat.eval().convert()
    assert isinstance(small.norm, nn.BatchNorm1d)
    assert not small.norm.training
    assert torch.allclose(small(x), qat(x), atol=1e-5)
    synchronized = QAT(nn.Sequential(nn.Conv1d(2, 2, 1), nn.SyncBatchNorm(2)))
    assert isinstance(synchronized.model[1], nn.SyncBatchNorm)


def test_more_are_found_with_example_inputs():
    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) if float(x.sum()) > -1e9 else y

    assert isinstance(QAT(Untraceable()).model.norm, nn.BatchNorm1d)
    qat = QAT(Untraceable(), example_inputs=torch.randn(3, 2, 4))
    assert isinstance(qat.model.conv, QATBatchNormLayer)
    assert isinstance(qat.model.norm, nn.Identity)


def test_a_single_value_has_no_variance():
    qat = QAT(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))).train()
    with pytest.raises(ValueError, match=r"at least 2 values a channel.*got 1"):
        qat(torch.ones(1, 2))
