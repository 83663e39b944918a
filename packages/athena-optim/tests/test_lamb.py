"""LAMB against a plain reference in float64, its worked values, its bounds, and its op."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from athena_core import Kernel
from athena_core.testing import kernel_checks
from athena_optim import Lamb
from athena_optim._buckets import PIECE
from athena_optim._lamb_math import trust_ratio

MODES = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "default": {},
}
# one larger than a piece of the fused path, a matrix, a vector, a scalar, none
SHAPES = [(3, PIECE // 2 - 7), (7, 5), (5,), (), (0,)]


class Reference:
    """You et al. 2020, algorithm 2, one tensor at a time, in float64, with nothing in place."""

    def __init__(
        self, params: list[Tensor], *, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, **options
    ):
        self.theta = [p.detach().double().clone() for p in params]
        self.m = [torch.zeros_like(p) for p in self.theta]
        self.v = [torch.zeros_like(p) for p in self.theta]
        self.t = [0] * len(params)
        self.lr, self.betas, self.eps, self.decay, self.options = lr, betas, eps, weight_decay, options

    def step(self, gradients: list[Tensor | None]) -> None:
        o = self.options
        total = math.sqrt(sum(g.double().square().sum().item() for g in gradients if g is not None))
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            g = gradient.double()
            if o.get("max_norm") is not None:
                g = g * min(1.0, o["max_norm"] / (total + 1e-6))
            if o.get("normalize_gradients") and total > 0:
                g = g / total
            g = -g if o.get("maximize") else g
            b1, b2 = self.betas
            self.t[i] += 1
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            corrected = o.get("bias_correction", True)
            m = self.m[i] / (1 - b1 ** self.t[i]) if corrected else self.m[i]
            v = self.v[i] / (1 - b2 ** self.t[i]) if corrected else self.v[i]
            u = m / (v.sqrt() + self.eps) + self.decay * self.theta[i]
            w_norm, u_norm = (x.square().sum().sqrt().item() for x in (self.theta[i], u))
            ratio = 1.0
            if (self.decay != 0 or o.get("adapt_no_decay", True)) and w_norm > 0 and u_norm > 0:
                ratio = min(max(w_norm / u_norm, o.get("min_ratio", 0.0)), o.get("max_ratio", math.inf))
            self.theta[i] = self.theta[i] - self.lr * ratio * u


def draw(step: int, shapes: list[tuple[int, ...]] = SHAPES) -> list[Tensor | None]:
    """Gradients of a step: sometimes none, sometimes zeros."""
    generator = torch.Generator().manual_seed(step)
    gradients: list[Tensor | None] = [
        torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes
    ]
    if step % 4 == 1:
        gradients[1] = None
    if step % 7 == 2:
        gradients[2] = torch.zeros(shapes[2], dtype=torch.float64)
    return gradients


def make(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(99)
    draws = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    return [nn.Parameter(one.to(dtype)) for one in draws]


def put(params: list[nn.Parameter], gradients: list[Tensor | None]) -> None:
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = None if gradient is None else gradient.to(param.dtype, copy=True)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1, "betas": (0.8, 0.95)},
        {"weight_decay": 0.1, "bias_correction": False},
        {"adapt_no_decay": False},
        {"weight_decay": 0.1, "min_ratio": 0.3, "max_ratio": 0.6, "maximize": True},
        {"weight_decay": 0.1, "normalize_gradients": True},
        {"weight_decay": 0.1, "max_norm": 0.5},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_fifty_steps_follow_the_reference(options, mode):
    """With decay, clipping, missing gradients (pitfall 6: steps counted per parameter) and zero ones."""
    params = make()
    optimizer, reference = Lamb(params, lr=0.02, **options, **mode), Reference(params, lr=0.02, **options)
    for step in range(50):
        gradients = draw(step)
        put(params, gradients)
        optimizer.step()
        reference.step(gradients)
    for param, expected in zip(params, reference.theta, strict=True):
        torch.testing.assert_close(param.detach(), expected, rtol=1e-9, atol=1e-11)
    assert [int(optimizer.state[p]["step"]) for p in params] == [50, 37, 50, 50, 50]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)]
)  # five roundings, and those of the state
def test_other_dtypes_stay_near_float64(mode, dtype, tolerance):
    params = make(dtype)
    optimizer = Lamb(params, lr=0.01, weight_decay=0.1, **mode)
    reference = Reference(params, lr=0.01, weight_decay=0.1)
    for step in range(5):
        gradients = [None if g is None else g.to(dtype) for g in draw(step)]
        put(params, gradients)
        optimizer.step()
        reference.step(gradients)
    for param, expected in zip(params, reference.theta, strict=True):
        torch.testing.assert_close(param.detach().double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_decay_belongs_inside_the_update_whose_norm_is_taken(mode):
    """Pitfall 1: with a zero gradient the update is the decay alone, its ratio 1 / decay: a step of 0.2.

    Decay first, as pytorch_optimizer does, gives lr * decay * weight = 0.1.
    """
    weight = nn.Parameter(torch.tensor([2.0]))
    weight.grad = torch.zeros(1)
    Lamb([weight], lr=0.1, weight_decay=0.5, **mode).step()
    assert (2.0 - weight).item() == pytest.approx(0.2)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_ratio_is_one_if_either_norm_is_zero(mode, decay):
    """Pitfall 2."""
    fresh, still = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(4))
    fresh.grad, still.grad = torch.ones(4), torch.zeros(4)
    Lamb([fresh, still], lr=0.1, weight_decay=decay, **mode).step()
    torch.testing.assert_close(fresh.detach(), torch.full((4,), -0.1), rtol=1e-5, atol=0)  # Adam's step
    assert still.tolist() == pytest.approx([0.9 if decay else 1.0] * 4)


def test_zero_norms_are_decided_on_the_device():
    """Pitfall 2: by `where`, under which a compiler's fake tensors, which have no values, pass."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert trust_ratio(torch.ones(3), torch.zeros(3), 0.0, math.inf).shape == (3,)
    assert trust_ratio(torch.tensor([0.0, 3.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]), 0.5, 2.0).tolist() == [
        1,
        1,
        1,
    ]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_bounds_are_on_the_ratio_and_not_on_the_norm_of_the_weights(mode):
    """Pitfall 3: weights of norm 200 whose update has norm 100 have ratio 2, below the bound of 10."""
    weight = nn.Parameter(torch.full((10_000,), 2.0))
    weight.grad = torch.ones(10_000)
    Lamb([weight], lr=0.1, max_ratio=10.0, eps=0.0, **mode).step()
    torch.testing.assert_close(weight.detach(), torch.full((10_000,), 1.8))
    bounded = nn.Parameter(torch.full((4,), 50.0))
    bounded.grad = torch.ones(4)
    Lamb([bounded], lr=0.1, max_ratio=10.0, eps=0.0, **mode).step()
    torch.testing.assert_close(bounded.detach(), torch.full((4,), 49.0))


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize(("adapt", "expected"), [(True, 2.0 - 0.2), (False, 2.0 - 0.1)])
def test_groups_without_decay_adapt_or_not(mode, adapt, expected):
    """Pitfall 4; a group with decay adapts in any case."""
    plain, decayed = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([2.0]))
    groups = [{"params": [plain]}, {"params": [decayed], "weight_decay": 0.5}]
    optimizer = Lamb(groups, lr=0.1, adapt_no_decay=adapt, **mode)
    plain.grad, decayed.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    assert plain.item() == pytest.approx(expected)
    assert decayed.item() == pytest.approx(1.8)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_normalized_gradients_have_norm_one_together(mode):
    """Pitfall 5: their norm 200 becomes 1, and not 40,000; over all groups, and 0 stays 0."""
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = Lamb([{"params": [first]}, {"params": [second]}], normalize_gradients=True, **mode)
    first.grad, second.grad = torch.tensor([120.0]), torch.tensor([160.0])
    optimizer.step()
    moments = [optimizer.state[p]["exp_avg"].item() / 0.1 for p in (first, second)]
    assert moments == pytest.approx([0.6, 0.8])
    assert (first.grad.item(), second.grad.item()) == (120.0, 160.0)
    first.grad, second.grad = torch.zeros(1), torch.zeros(1)
    optimizer.step()
    assert torch.isfinite(first).all()


def test_parameters_unfrozen_late_are_corrected_from_their_own_first_step():
    """Pitfall 6: the first step of a parameter has the size of Adam's first step, whenever it comes."""
    early, late = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3), requires_grad=False)
    optimizer = Lamb([early, late], lr=0.1)
    for _ in range(10):
        early.grad = torch.ones(3)
        optimizer.step()
    late.requires_grad_()
    late.grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(late.detach(), torch.full((3,), 0.9), rtol=1e-5, atol=0)


@settings(max_examples=30)
@given(scale=st.floats(1e-3, 1e3), rows=st.integers(1, 5), decay=st.sampled_from([0.0, 0.1]))
def test_scaling_a_layer_scales_its_steps(scale, rows, decay):
    """The law LAMB is made for: a layer that is larger takes steps that are larger by the same factor.

    Exact for decay 0; with decay, lambda / scale on the scaled layer is the same problem.
    """
    one, other = (nn.Parameter(torch.ones(rows, 3, dtype=torch.float64)) for _ in range(2))
    with torch.no_grad():
        other.mul_(scale)
    ours = Lamb([one], lr=0.1, eps=0.0, weight_decay=decay)
    theirs = Lamb([other], lr=0.1, eps=0.0, weight_decay=decay / scale)
    for step in range(5):
        gradient = torch.randn(rows, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        one.grad, other.grad = gradient, gradient.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(one.detach() * scale, other.detach(), rtol=1e-9, atol=0)


def test_numbers_that_are_not_finite_stay_in_their_own_tensor():
    """The fused path uses one piece of memory for all large tensors; none may poison the next."""
    sick, well = (nn.Parameter(torch.ones(PIECE + 1)) for _ in range(2))
    optimizer = Lamb([sick, well], lr=0.1)
    for bad in (math.nan, math.inf):
        sick.grad, well.grad = torch.full((PIECE + 1,), bad), torch.ones(PIECE + 1)
        optimizer.step()
    assert torch.isnan(sick).all()
    assert torch.isfinite(well).all()


@pytest.mark.parametrize("shape", [(PIECE, 2), (9, 4)])
def test_strides_do_not_matter(shape):
    straight = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for _ in range(2)]
    turned = [nn.Parameter(p.detach().T.contiguous().T) for p in straight]
    for params in (straight, turned):
        optimizer = Lamb(params, lr=0.1, weight_decay=0.1)
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            for param in params:
                param.grad = torch.randn(shape, generator=generator, dtype=torch.float64)
            optimizer.step()
    for a, b in zip(straight, turned, strict=True):
        assert not b.is_contiguous()
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


CHECKS = list(kernel_checks(Kernel("athena_optim::lamb_", "cpu", "lamb_kernel:kernel")))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_device_plugin_can_replace_the_op(check):
    """All that a kernel is asked, asked of LAMB by loops as if a plugin offered it for the CPU."""
    check()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_ratio": -0.1}, ValueError, "`min_ratio` and `max_ratio` must satisfy 0 <= min_ratio"),
        ({"min_ratio": 2.0, "max_ratio": 1.0}, ValueError, "got 2.0 and 1.0"),
        ({"max_ratio": math.nan}, ValueError, "got 0.0 and nan"),
        ({"eps": -1.0}, ValueError, "`eps`"),
        ({"max_norm": -1.0}, ValueError, "`max_norm` must be above 0"),
        ({"fused": True, "capturable": True}, RuntimeError, "`fused` does not support `capturable`"),
        ({"max_norm": 1.0, "differentiable": True}, RuntimeError, "`max_norm` does not support"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Lamb(make(), **options)


def test_bad_bounds_of_a_group_are_refused():
    with pytest.raises(ValueError, match="min_ratio"):
        Lamb([{"params": make(), "min_ratio": 3.0, "max_ratio": 1.0}])


def test_clipping_is_refused_where_it_would_do_nothing():
    with pytest.raises(ValueError, match="`max_norm` has no effect with `normalize_gradients`"):
        Lamb(make(), max_norm=1.0, normalize_gradients=True)


def test_scratch_memory_is_made_once_a_dtype():
    params = [nn.Parameter(torch.ones(PIECE, dtype=dtype)) for dtype in (torch.float32, torch.float64)]
    optimizer = Lamb([{"params": [param]} for param in params])
    places = []
    for _ in range(2):
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        places.append({dtype: one.data_ptr() for dtype, one in optimizer._scratch.items()})
    assert places[0] == places[1]
    assert len(places[0]) == 2
