"""Lion against its paper, a number at a time, and what its signs imply."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from athena_optim import Lion

MODES = [{"foreach": False}, {"foreach": True}, {"differentiable": True}, {"capturable": True}, {}]


def plain_lion(
    theta: list[float],
    gradients: list[list[float] | None],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    maximize: bool,
) -> list[float]:
    """Algorithm 2 of arXiv:2302.06675 on one vector; None is a missing gradient."""
    m = [0.0] * len(theta)
    for gradient in gradients:
        if gradient is None:
            continue
        for i, g in enumerate(gradient):
            g = -g if maximize else g
            c = betas[0] * m[i] + (1 - betas[0]) * g
            sign = (c > 0) - (c < 0)
            theta[i] -= lr * (sign + weight_decay * theta[i])
            m[i] = betas[1] * m[i] + (1 - betas[1]) * g
    return theta


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # differentiable
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("maximize", [False, True])
def test_fifty_steps_equal_plain_python(mode, weight_decay, maximize):
    """Zero and missing gradients among them."""
    options = {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": weight_decay, "maximize": maximize}
    start = [1.0, -2.0, 3.0, 0.0]
    parameter = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    held = parameter.clone() if mode.get("differentiable") else parameter
    optimizer = Lion([held], **options, **mode)
    draws = torch.randn(50, 4, dtype=torch.float64)
    gradients = [None if step % 7 == 3 else (step % 7 != 5) * draws[step] for step in range(50)]
    for gradient in gradients:
        held.grad = None if gradient is None else gradient.clone()
        optimizer.step()
    expected = plain_lion(start, [None if g is None else g.tolist() for g in gradients], **options)
    # 50 steps of a few roundings each, of numbers near 1
    torch.testing.assert_close(held.tolist(), expected, rtol=0, atol=1e-13)


def test_late_parameter_starts_from_its_own_momentum():
    """A parameter that joins at step 10 takes the path it would have taken alone (pitfall 6)."""
    gradients = torch.randn(20, 3)
    early, late, alone = (nn.Parameter(torch.ones(3)) for _ in range(3))
    optimizer, single = Lion([early], lr=0.1), Lion([alone], lr=0.1)
    for step, gradient in enumerate(gradients):
        if step == 10:
            optimizer.add_param_group({"params": [late]})
        early.grad = late.grad = gradient.clone()
        optimizer.step()
    for gradient in gradients[10:]:
        alone.grad = gradient.clone()
        single.step()
    assert torch.equal(late, alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_steps_have_one_size_at_any_gradient_scale(dtype, scale):
    parameter = nn.Parameter(torch.zeros(3, dtype=dtype))
    parameter.grad = scale * torch.tensor([1.0, -2.0, 0.0], dtype=dtype)
    Lion([parameter], lr=0.125).step()
    assert parameter.tolist() == [-0.125, 0.125, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_and_loop_agree_bit_for_bit(dtype):
    """Tensors larger than a bucket, smaller ones, and strides that cannot be cut."""
    values = [torch.randn(400, 400), torch.randn(5), torch.randn(380, 390).T, torch.tensor(2.0)]
    listed, looped = ([nn.Parameter(v.clone().to(dtype)) for v in values] for _ in range(2))
    optimizers = (
        Lion(listed, lr=0.01, weight_decay=0.1),
        Lion(looped, lr=0.01, weight_decay=0.1, foreach=False),
    )
    for _ in range(3):
        for a, b in zip(listed, looped, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    bound = 0.0 if dtype == torch.float32 else 2e-2  # the loop rounds lr * sign and the sum, lists the sum
    for a, b in zip(listed, looped, strict=True):
        torch.testing.assert_close(a, b, rtol=bound, atol=bound)
