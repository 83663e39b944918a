"""Gradient centralisation against plain Python, over layouts, and its order beside clipping and scaling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from athena_core import SplitEmbedding
from athena_optim import (
    SAM,
    AdamW,
    CentralizedGradients,
    centralize_gradient,
    centralized_groups,
    clip_gradients,
    param_groups,
)
from athena_optim._buckets import PIECE


def plain_centralized(grad: torch.Tensor, axis: int, groups: int) -> torch.Tensor:
    """Equations 1 and 2 of arXiv:2004.01461, an output unit at a time."""
    result = grad.clone()
    block = grad.shape[0] // groups
    for start in range(0, grad.shape[0], block):
        rows = result[start : start + block]
        for unit in range(rows.shape[axis]):
            weights = rows.select(axis, unit)
            weights -= sum(weights.flatten().tolist()) / weights.numel()
    return result


@pytest.mark.parametrize("shape", [(4, 3), (6, 2, 5), (4, 1, 3, 3), (2, 3, 2, 2, 2), (2, 1), (8, 0)])
@pytest.mark.parametrize(("axis", "groups"), [(0, 1), (1, 1), (-1, 1), (1, 2)])
def test_equals_plain_python(shape, axis, groups):
    grad = torch.randn(shape, dtype=torch.float64)
    expected = plain_centralized(grad, axis, groups) if grad.numel() else grad
    torch.testing.assert_close(centralize_gradient(grad, axis, groups), expected, rtol=0, atol=1e-14)
    weight = nn.Parameter(torch.zeros_like(grad))
    group = {"params": [weight], "output_axis": axis, "output_groups": groups}
    weight.grad = grad.clone()
    CentralizedGradients(torch.optim.SGD([group], lr=1.0)).step()
    torch.testing.assert_close(weight.grad, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(weight.data, -expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("strided", [False, True])
def test_pieces_make_no_difference(axis, strided):
    """Larger than a piece, with a rest; and transposed in memory."""
    grad = torch.randn(701, 389, dtype=torch.float64)
    assert grad.numel() > PIECE
    grad = grad.t().contiguous().t() if strided else grad
    weight = nn.Parameter(torch.zeros_like(grad))
    weight.grad = grad.clone()
    CentralizedGradients(torch.optim.SGD([{"params": [weight], "output_axis": axis}], lr=1.0)).step()
    torch.testing.assert_close(weight.grad, centralize_gradient(grad, axis), rtol=0, atol=1e-14)


def test_vectors_and_scalars_are_left_alone():
    """Pitfall 17: two or more axes only."""
    weights = [nn.Parameter(torch.ones(shape)) for shape in ((3,), (), (2, 3))]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    CentralizedGradients(torch.optim.SGD(weights, lr=1.0)).step()
    assert [weight.grad.sum().item() for weight in weights] == [3.0, 1.0, 0.0]
    assert torch.equal(centralize_gradient(torch.ones(3)), torch.ones(3))


class Conv1D(nn.Module):
    """As that of Hugging Face's transformers: the weight is (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))

    def forward(self, x):
        return x @ self.weight


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(5, 3, bias=False), (7, 5)),
        (nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 5, 5)),
        (Conv1D(), (7, 5)),
        (nn.ConvTranspose1d(4, 6, 3, bias=False), (2, 4, 5)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), (2, 4, 5, 5)),
    ],
)
def test_the_axis_follows_the_layout(layer, x):
    """Pitfall 17: a step leaves each output's response to a constant input where it was, in every layout."""
    layer = layer.double()
    ones = torch.ones(x, dtype=torch.float64)

    def response():
        return layer(ones).select(1, 0) if isinstance(layer, Conv1D | nn.Linear) else inner_response()

    def inner_response():
        # Amid the image of a transposed convolution every weight of an output has taken part.
        if isinstance(layer, nn.Conv2d):
            return layer(ones)[0, :, 0, 0]
        amid = layer(ones)[0].flatten(1)
        return amid[:, amid.shape[1] // 2]

    before = response().detach().clone()
    optimizer = CentralizedGradients(torch.optim.SGD(centralized_groups(layer), lr=0.1))
    layer(torch.randn(x, dtype=torch.float64)).square().mean().backward()
    weight = next(layer.parameters()).detach().clone()
    optimizer.step()
    assert not torch.equal(next(layer.parameters()), weight)
    torch.testing.assert_close(response().detach(), before, rtol=0, atol=1e-12)


def test_groups_keep_their_options_and_embeddings_are_left_out():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 3), nn.ConvTranspose1d(3, 2, 1))
    groups = centralized_groups(model, param_groups(model, weight_decay=0.5))
    layouts = [(g["weight_decay"], g["output_axis"], g["output_groups"], len(g["params"])) for g in groups]
    assert layouts == [(0.5, None, 1, 1), (0.5, 0, 1, 1), (0.5, 1, 1, 1), (0.0, 0, 1, 1), (0.0, 1, 1, 1)]
    named = centralized_groups(model, [{"params": list(model.named_parameters())}])
    assert sum(len(group["params"]) for group in named) == 5
    (alone,) = centralized_groups(nn.Linear(2, 2), [{"params": model[1].weight}])
    assert alone["params"] == [model[1].weight]
    optimizer = CentralizedGradients(AdamW(groups))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert [p.grad.any().item() for p in model.parameters()] == [True, False, True, False, True]


def test_an_embedding_in_pieces_is_left_out():
    pieces = [nn.Parameter(torch.randn(5, 4)) for _ in range(2)]
    (group,) = centralized_groups(SplitEmbedding(pieces))
    assert (group["output_axis"], len(group["params"])) == (None, 2)


def test_conv_only_leaves_matrices_out():
    model = nn.Sequential(nn.Linear(3, 3), nn.Conv1d(3, 2, 2))
    optimizer = CentralizedGradients(torch.optim.SGD(model.parameters()), conv_only=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert [p.grad.any().item() for p in model.parameters()] == [True, True, False, True]


def test_unscale_then_clip_then_centralise_then_step():
    """Pitfall 16: the order, with a GradScaler, against the four done by hand."""
    torch.manual_seed(1)
    weights = [nn.Parameter(torch.zeros(3, 4)) for _ in range(2)]
    gradient = torch.randn(3, 4) + 5
    optimizer = CentralizedGradients(torch.optim.SGD([weights[0]], lr=1.0), max_norm=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((weights[0] * gradient).sum()).backward()
    scaler.step(optimizer)
    weights[1].grad = gradient.clone()
    clip_gradients([weights[1]], 1.0)
    expected = -centralize_gradient(weights[1].grad)
    torch.testing.assert_close(weights[0].data, expected)
    assert expected.norm() < 0.9  # centralised first, and clipped then, its norm would be 1


@pytest.mark.parametrize("clip", [{"max_norm": 1.0}, {"max_value": 1.0}, {"adaptive_clip": 0.01}])
def test_an_inner_optimizer_that_clips_is_refused(clip):
    """Pitfall 16: it would clip what is centralised; at any depth."""
    (name,) = clip
    with pytest.raises(ValueError, match=f"got AdamW with {name}=.* Pass `{name}` to CentralizedGradients"):
        CentralizedGradients(SAM(AdamW([nn.Parameter(torch.zeros(1))], **clip)))
    CentralizedGradients(AdamW([nn.Parameter(torch.zeros(1))]), **clip)


@pytest.mark.parametrize("max_norm", [None, 1.0])
@pytest.mark.parametrize("closure", [False, True])
def test_non_finite_gradients(max_norm, closure):
    """Pitfall 16: raise, skip or zero, with and without clipping and a closure."""
    for policy, expected in (("raise", None), ("skip", 1.0), ("zero", 1.0)):
        weight = nn.Parameter(torch.ones(2, 2))
        inner = torch.optim.SGD([weight], lr=1.0)
        optimizer = CentralizedGradients(inner, max_norm=max_norm, nonfinite=policy)

        def leave(weight=weight):
            weight.grad = torch.tensor([[1.0, math.nan], [2.0, 3.0]])
            return 7.0

        leave()
        if expected is None:
            with pytest.raises(RuntimeError, match="finite"):
                optimizer.step(leave if closure else None)
            continue
        assert optimizer.step(leave if closure else None) == (7.0 if closure else None)
        assert optimizer.skipped is (policy == "skip")
        assert torch.equal(weight.data, torch.full((2, 2), expected))
        weight.grad = torch.ones(2, 2)
        optimizer.step()
        assert optimizer.skipped is False


def test_closures_are_centralised_at_each_evaluation():
    """LBFGS and SAM evaluate more than once, each time after centralising."""
    x = torch.randn(16, 5)
    for make in (
        lambda p: torch.optim.LBFGS(p, max_iter=4),
        lambda p: SAM(torch.optim.SGD(p, lr=0.1)),
        lambda p: torch.optim.SGD(p, lr=0.1),
    ):
        weight = nn.Parameter(torch.randn(3, 5))
        sums = weight.detach().sum(1)
        optimizer = CentralizedGradients(make([weight]))
        calls = []

        def closure(weight=weight, optimizer=optimizer, calls=calls):
            optimizer.zero_grad()
            loss = (F.linear(x, weight) - 1).square().mean()
            loss.backward()
            calls.append(loss.detach())
            return loss

        assert optimizer.step(closure) == calls[0]
        closure()
        assert calls[-1] < calls[0]
        torch.testing.assert_close(weight.detach().sum(1), sums)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"output_axis": 2}, r"`axis` must lie in \[-2, 2\); got 2"),
        ({"output_axis": 1, "output_groups": 2}, "`groups` must divide axis 0, of size 3; got 2"),
        ({"output_axis": 1, "output_groups": 0}, "`groups` must divide axis 0, of size 3; got 0"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(group, message):
    weight = nn.Parameter(torch.zeros(3, 2))
    weight.grad = torch.ones(3, 2)
    optimizer = CentralizedGradients(torch.optim.SGD([{"params": [weight], **group}]))
    with pytest.raises(ValueError, match=message):
        optimizer.step()


def test_bad_options_and_sparse_gradients_are_refused():
    inner = torch.optim.SparseAdam([nn.Parameter(torch.zeros(3, 2))])
    with pytest.raises(ValueError, match="`max_norm` must be above 0"):
        CentralizedGradients(inner, max_norm=0.0)
    with pytest.raises(ValueError, match="`nonfinite` must be"):
        CentralizedGradients(inner, nonfinite="drop")
    inner.param_groups[0]["params"][0].grad = torch.ones(3, 2).to_sparse()
    for options in ({}, {"max_norm": 1.0}, {"nonfinite": "skip"}):
        with pytest.raises(RuntimeError, match="dense"):
            CentralizedGradients(inner, **options).step()


@pytest.mark.parametrize("axis", [0, 1])
def test_autocast_around_the_step_does_not_make_means_coarse(axis):
    weight = nn.Parameter(torch.zeros(8, 8))
    weight.grad = torch.randn(8, 8) + 100
    groups = [{"params": [weight], "output_axis": axis}]
    with torch.autocast("cpu", torch.bfloat16):
        CentralizedGradients(torch.optim.SGD(groups, lr=1.0)).step()
    assert weight.grad.mean(1 - axis).abs().max() < 1e-4
