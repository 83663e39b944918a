"""The contract of `torch.optim`, for every optimizer and wrapper, over torch's own inputs for optimizers.

What torch's test suite checks of its optimizers is not shipped with it; the inputs are.
"""

from __future__ import annotations

import inspect
import pickle
import weakref
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import (
    CASES,
    MATRIX_SHAPES,
    OPTIMIZERS,
    SHAPES,
    TOLERANCE,
    WRAPPERS,
    Case,
    advance,
    assert_same,
    draw_gradients,
    gradient_closure,
    loss_closure,
    make_parameters,
    snapshot,
    tensors_of,
)
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.testing._internal.common_optimizers import (
    OptimizerErrorEnum,
    _get_optim_inputs_including_global_cliquey_kwargs,
)
from torch.utils._python_dispatch import TorchDispatchMode

from athena_optim import AdamW, Muon

# torch's own only warn of a parameter that is twice in a group, and raise on request
no_duplicates = pytest.mark.filterwarnings("error:.*duplicate parameters:UserWarning")
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_optimizer = pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.name)
every_wrapper = pytest.mark.parametrize("case", WRAPPERS, ids=lambda case: case.name)


def inputs(
    case: Case, dtype: torch.dtype = torch.float32, skip: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Torch's inputs for such an optimizer, each with each of its implementations."""
    found = _get_optim_inputs_including_global_cliquey_kwargs("cpu", dtype, case.info, skip=skip)
    # a tensor as rate with list ops is refused unless the step is capturable
    return [
        one.kwargs
        for one in found
        if not (
            isinstance(one.kwargs.get("lr"), Tensor)
            and one.kwargs.get("foreach")
            and not one.kwargs.get("capturable")
        )
        and not (case.excludes and all(one.kwargs.get(flag) for flag in case.excludes))
    ]


def run(case: Case, options: dict[str, Any], dtype: torch.dtype, steps: int = 4) -> list[Tensor]:
    """The parameters and the state after a few steps, each of which leaves one parameter out."""
    params: list[Any] = make_parameters(dtype)
    if options.get("differentiable"):
        params = [p.detach() for p in params]  # autograd allows no leaf to change in place
    optimizer = case.make(params, **deepcopy(options))
    for step in range(steps):
        gradients: list[Any] = draw_gradients(params, step)
        gradients[step % 3] = None
        optimizer.step(gradient_closure(params, gradients))
    return snapshot(optimizer, params)


@every
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_implementations_agree(case, dtype):
    """foreach, fused, differentiable and the plain loop, for each of torch's inputs; late state too."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for options in inputs(case, dtype):
        rest = {k: v for k, v in options.items() if k not in ("foreach", "fused", "differentiable")}
        grouped.setdefault(repr(rest), []).append(options)
    for group in grouped.values():
        plain, *others = (run(case, options, dtype) for options in group)
        for other, options in zip(others, group[1:], strict=True):
            # A graph holds the float32 count of steps, and so float32 corrections of moments.
            bound = max(TOLERANCE[dtype], 1e-6) if options.get("differentiable") else TOLERANCE[dtype]
            for a, b in zip(plain, other, strict=True):
                torch.testing.assert_close(a, b, rtol=bound, atol=bound)


def test_adamw_is_torchs_bit_for_bit():
    """For each of torch's inputs, in each implementation; parameters and state."""
    (case,) = (case for case in OPTIMIZERS if case.make is AdamW)
    for dtype in TOLERANCE:
        for options in inputs(case, dtype):
            assert_same(run(case, options, dtype), run(replace(case, make=torch.optim.AdamW), options, dtype))


@pytest.mark.parametrize(
    "case", [case for case in OPTIMIZERS if "capturable" in case.flags], ids=lambda case: case.name
)
def test_a_capturable_step_is_the_same_step(case):
    """Counts stay on the device, in float32; with a rate that is a tensor too."""
    rate = torch.tensor(0.1, dtype=torch.float64)
    plain = run(case, {"lr": 0.1, "weight_decay": 0.1}, torch.float64)
    kinds: list[dict[str, Any]] = [{"lr": 0.1}, {"lr": rate}]
    if case.make is not Muon:  # whose vectors torch's AdamW updates: its loop captures on no CPU
        kinds.append({"lr": rate, "foreach": False})
    for options in kinds:
        captured = run(case, {**options, "weight_decay": 0.1, "capturable": True}, torch.float64)
        for a, b in zip(captured[: len(SHAPES)], plain[: len(SHAPES)], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@every
def test_the_same_inputs_give_the_same_bits(case):
    for options in inputs(case):
        assert_same(run(case, options, torch.float32), run(case, options, torch.float32))


@every
def test_a_state_dict_goes_round_whole(case):
    for options in inputs(case, skip=("differentiable",)):
        params = make_parameters()
        optimizer = case.make(params, **deepcopy(options))
        advance(optimizer, params, range(2))
        twins = deepcopy(params)
        twin = case.make(twins, **deepcopy(options))
        twin.load_state_dict(deepcopy(optimizer.state_dict()))
        assert_same(snapshot(optimizer, params), snapshot(twin, twins))
        advance(optimizer, params, range(2, 4))
        advance(twin, twins, range(2, 4))
        assert_same(snapshot(optimizer, params), snapshot(twin, twins))


@every
@pytest.mark.parametrize("which", ["gradients sliced", "parameters sliced", "parameters transposed"])
def test_strides_do_not_matter(case, which):
    """Nor does a step reach what lies between elements; torch's fused kernels ignore strides."""
    shapes = [(6, 5), (9,), (2, 9)]
    plain = make_parameters(torch.float64, shapes)
    spaced = [p.detach().repeat_interleave(2, -1) for p in plain]
    before = [memory.clone() for memory in spaced]
    params = {
        "gradients sliced": make_parameters(torch.float64, shapes),
        "parameters sliced": [nn.Parameter(memory[..., ::2]) for memory in spaced],
        "parameters transposed": [nn.Parameter(p.detach().t().contiguous().t()) for p in plain],
    }[which]
    for foreach in (False, None):
        optimizers = case.make(plain, foreach=foreach), case.make(params, foreach=foreach)
        for step in range(3):
            gradients = draw_gradients(plain, step)
            optimizers[0].step(gradient_closure(plain, gradients))
            if which == "gradients sliced":
                gradients = [g.repeat_interleave(2, -1)[..., ::2] for g in gradients]
            optimizers[1].step(gradient_closure(params, gradients))
        torch.testing.assert_close(params, plain, rtol=1e-12, atol=1e-12)
    assert_same([memory[..., 1::2] for memory in spaced], [memory[..., 1::2] for memory in before])


@every
def test_without_gradients_nothing_happens(case):
    params = make_parameters()
    optimizer = case.make(params, weight_decay=0.1)
    advance(optimizer, params, range(2))
    before = snapshot(optimizer, params)
    optimizer.step(gradient_closure(params, [None] * len(params)))
    assert_same(snapshot(optimizer, params), before)


@every
def test_zero_gradients_are_finite(case):
    params = make_parameters()
    optimizer = case.make(params, lr=0.1)
    for _ in range(3):
        optimizer.step(gradient_closure(params, [torch.zeros_like(p) for p in params]))
    assert all(torch.isfinite(t).all() for t in snapshot(optimizer, params))


@every
def test_empty_groups_are_passed_over(case):
    params, twins = make_parameters(shapes=MATRIX_SHAPES), make_parameters(shapes=MATRIX_SHAPES)
    with_empty = case.make([{"params": []}, {"params": params}, {"params": []}])
    plain = case.make(twins)
    advance(with_empty, params, range(2))
    advance(plain, twins, range(2))
    assert_same(params, twins)
    assert len(with_empty.param_groups) == 3
    with_empty.load_state_dict(with_empty.state_dict())


@every
def test_maximize_is_negated_gradients_and_leaves_them(case):
    """Pitfall 12: `.grad` is neither replaced nor negated in place."""
    for options in ({}, {"foreach": False}, {"fused": True} if "fused" in case.flags else {}):
        up, down = make_parameters(), make_parameters()
        climbing = case.make(up, lr=0.1, maximize=True, **options)
        descending = case.make(down, lr=0.1, **options)
        for step in range(3):
            gradients = draw_gradients(up, step)
            held = [g.clone() for g in gradients]
            climbing.step(gradient_closure(up, held))
            descending.step(gradient_closure(down, [-g for g in gradients]))
            assert all(p.grad is g for p, g in zip(up, held, strict=True))
            if case in OPTIMIZERS:  # centralizing changes gradients, by what it is
                assert_same(held, gradients)
        assert_same(up, down)


@every
def test_groups_have_their_own_options(case):
    """As if each group had an optimizer of its own, for those whose tensors do not meet."""
    if "independent" not in case.laws:
        pytest.skip("its tensors meet in a norm")
    own = [{"lr": 0.1, "weight_decay": 0.3}, {"lr": 0.01}, {"maximize": True}]
    together, apart = (
        [[p] for p in make_parameters(torch.float64, [(4, 3), (5, 2), (2, 2)])] for _ in range(2)
    )
    optimizer = case.make(
        [{"params": params, **options} for params, options in zip(together, own, strict=True)]
    )
    singles = [case.make(params, **options) for params, options in zip(apart, own, strict=True)]
    for step in range(3):
        for number, params in enumerate(together):
            params[0].grad = draw_gradients(params, 10 * step + number)[0]
        optimizer.step()
        for number, (params, single) in enumerate(zip(apart, singles, strict=True)):
            params[0].grad = draw_gradients(params, 10 * step + number)[0]
            single.step()
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a[0], b[0], rtol=1e-13, atol=1e-13)


@every
def test_dtypes_mix_in_one_group(case):
    kinds = [torch.float32, torch.float64, torch.bfloat16, torch.float32]
    mixed, apart = ([make_parameters(dtype, [(4, 3)])[0] for dtype in kinds] for _ in range(2))
    optimizer = case.make(mixed)
    advance(optimizer, mixed, range(3))
    if "independent" in case.laws:
        singles = [case.make([p]) for p in apart]
        for step in range(3):
            loss_closure(apart, step)()
            for single in singles:
                single.step()
        for a, b in zip(mixed, apart, strict=True):
            torch.testing.assert_close(a, b, rtol=TOLERANCE[a.dtype], atol=TOLERANCE[a.dtype])
    assert all(torch.isfinite(p).all() for p in mixed)
    assert [p.dtype for p in mixed] == kinds


@every
def test_a_tensor_rate_is_the_number_it_holds_and_is_filled(case):
    """Pitfall 14: a scheduler fills it, and the optimizer reads it anew each step."""
    results = []
    for rate in (0.1, torch.tensor(0.1, dtype=torch.float64)):
        params = make_parameters(torch.float64, MATRIX_SHAPES)
        optimizer = case.make(params, lr=rate)
        schedule = ExponentialLR(optimizer, 0.5)
        for step in range(3):
            advance(optimizer, params, [step])
            schedule.step()
        results.append([p.detach() for p in params])
        if isinstance(rate, Tensor):
            assert optimizer.param_groups[0]["lr"] is rate
            assert rate.item() == pytest.approx(0.1 / 8)
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@every_optimizer
def test_autograd_runs_through_a_differentiable_step(case):
    """Two steps, with respect to the first parameter, the gradients, and nothing else."""
    if "differentiable" not in case.flags:
        pytest.skip("no such flag")

    def two_steps(param: Tensor, first: Tensor, second: Tensor) -> Tensor:
        theta = param.clone()
        optimizer = case.make([theta], lr=0.1, weight_decay=0.1, differentiable=True, **case.exact)
        for gradient in (first, second):
            theta.grad = gradient
            optimizer.step()
        return theta

    values = [torch.randn(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(two_steps, values)


@every
def test_parameters_stay_leaves_and_their_changes_are_seen(case):
    """A graph recorded before a step must not be used after it: in-place changes are counted."""
    param = nn.Parameter(torch.randn(3, 2))
    optimizer = case.make([param])
    loss = param.square().sum()
    optimizer.step(gradient_closure([param], [torch.ones(3, 2)]))
    assert param.is_leaf
    assert param.requires_grad
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every
def test_hooks_run_once_each(case):
    params = make_parameters()
    optimizer = case.make(params)
    seen: list[str] = []
    outer: list[str] = []

    def note(name: str):
        return lambda *_: seen.append(name)

    def note_outer(name: str):
        return lambda hooked, *_: outer.append(name) if hooked is optimizer else None

    handles = [
        optimizer.register_step_pre_hook(note("before")),
        optimizer.register_step_post_hook(note("after")),
        optimizer.register_state_dict_pre_hook(note("saving")),
        optimizer.register_state_dict_post_hook(note("saved")),
        optimizer.register_load_state_dict_pre_hook(note("loading")),
        optimizer.register_load_state_dict_post_hook(note("loaded")),
        register_optimizer_step_pre_hook(note_outer("before")),
        register_optimizer_step_post_hook(note_outer("after")),
    ]
    try:
        advance(optimizer, params, [0])
        optimizer.load_state_dict(optimizer.state_dict())
    finally:
        for handle in handles:
            handle.remove()
    assert seen == ["before", "after", "saving", "saved", "loading", "loaded"]
    assert outer == ["before", "after"]


@every
def test_hooks_may_change_what_is_saved_and_loaded(case):
    """What they return is taken, as torch takes it."""
    params = make_parameters()
    optimizer = case.make(params)
    advance(optimizer, params, [0])
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "note": 1})
    optimizer.register_load_state_dict_pre_hook(
        lambda _, state: {key: value for key, value in state.items() if key != "note"}
    )
    state = optimizer.state_dict()
    assert state["note"] == 1
    state["param_groups"] = [{**group, "lr": 0.5} for group in state["param_groups"]]
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.5


@every
@pytest.mark.parametrize(
    "copied", [deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["deepcopy", "pickle"]
)
def test_copies_go_on_alike_and_alone(case, copied):
    params = make_parameters()
    optimizer = case.make(params, lr=0.1)
    if case.name.startswith(("centralized", "lookahead")):
        assert optimizer.param_groups is optimizer.optimizer.param_groups
    advance(optimizer, params, range(2))
    twins, twin = copied((params, optimizer))
    assert type(twin) is type(optimizer)
    advance(optimizer, params, range(2, 5))
    advance(twin, twins, range(2, 5))
    assert_same(snapshot(optimizer, params), snapshot(twin, twins))
    assert twin.param_groups[0]["params"][0] is twins[0]
    twin.param_groups[0]["lr"] = 0.7
    assert optimizer.param_groups[0]["lr"] == 0.1


@every
def test_the_profiler_names_the_step_once(case):
    params = make_parameters()
    optimizer = case.make(params)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        advance(optimizer, params, [0])
    name = f"Optimizer.step#{type(optimizer).__name__}.step"
    assert [e.count for e in profile.key_averages() if e.key == name] == [1]


@every
def test_named_parameters_are_taken(case):
    params = make_parameters(shapes=MATRIX_SHAPES)
    optimizer = case.make([(f"p{number}", param) for number, param in enumerate(params)])
    advance(optimizer, params, range(2))
    state = optimizer.state_dict()
    assert state["param_groups"][0]["param_names"] == [f"p{number}" for number in range(len(params))]
    twins = make_parameters(shapes=MATRIX_SHAPES)
    twin = case.make([(f"p{number}", param) for number, param in enumerate(twins)])
    twin.load_state_dict(deepcopy(state))
    assert_same(tensors_of(twin), tensors_of(optimizer))


@every
def test_freezing_and_unfreezing(case):
    """Pitfall 6: a parameter that thaws late starts its own count, as if it had been added then."""
    if "independent" not in case.laws:
        pytest.skip("its tensors meet in a norm")
    params = make_parameters(torch.float64, [(4, 3), (5, 2)])
    alone = deepcopy(params[1])
    optimizer = case.make(params, lr=0.1)
    params[1].requires_grad_(False)
    advance(optimizer, params, range(3))
    assert_same([params[1]], [alone])
    params[1].requires_grad_(True)
    single = case.make([alone], lr=0.1)
    for step in range(3):
        gradient = draw_gradients([alone], step)[0]
        params[0].grad, params[1].grad, alone.grad = None, gradient, gradient.clone()
        optimizer.step()
        single.step()
    torch.testing.assert_close(params[1], alone, rtol=1e-13, atol=1e-13)


@every
def test_zero_grad_and_add_param_group_reach_everything(case):
    params = make_parameters(shapes=MATRIX_SHAPES)
    optimizer = case.make(params)
    groups = optimizer.param_groups
    late = nn.Parameter(torch.ones(3, 2))
    optimizer.add_param_group({"params": [late], "lr": 0.5})
    assert optimizer.param_groups is groups
    assert groups[1]["lr"] == 0.5
    advance(optimizer, [*params, late], [0])
    optimizer.zero_grad()
    assert all(p.grad is None for p in [*params, late])
    assert not torch.equal(late, torch.ones(3, 2))
    late.grad = torch.ones(3, 2)
    optimizer.zero_grad(set_to_none=False)
    assert late.grad is not None
    assert not late.grad.any()


@no_duplicates
@every
def test_groups_that_torch_refuses_are_refused_and_leave_nothing(case):
    params = make_parameters(shapes=MATRIX_SHAPES)
    optimizer = case.make(params)
    other = nn.Parameter(torch.ones(3, 2))
    bad: list[tuple[Any, Any]] = [
        (ValueError, {"params": [params[0]]}),
        ((ValueError, UserWarning), {"params": [other, other]}),  # of which torch's own warn
        (ValueError, {"params": [other * 2]}),
        (TypeError, {"params": {other}}),
        (TypeError, {"params": ["weight"]}),
        (TypeError, [other]),
        (ValueError, {"params": [("weight", other)]}),
    ]
    if case in OPTIMIZERS:  # torch's own check their defaults only
        bad.append((ValueError, {"params": [other], "lr": -1.0}))
    for error, group in bad:
        with pytest.raises(error) as caught:
            optimizer.add_param_group(group)
        assert "\n" not in str(caught.value)
        assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": other})
    advance(optimizer, [*params, other], range(2))


@no_duplicates
@every
def test_torchs_error_inputs_are_errors(case):
    """Of torch's kind, where torch raises; repeated parameters, which torch warns of, are refused."""
    for one in case.info.optim_error_inputs_func("cpu", torch.float32):
        given = one.optimizer_error_input
        if not given.kwargs.keys() <= inspect.signature(case.make).parameters.keys() or "2D" in given.desc:
            continue  # ours has no such option, or no such limit
        params = [nn.Parameter(torch.randn(2, 1))] if given.params is None else given.params
        repeated = one.error_type is UserWarning
        expected = (ValueError, UserWarning) if repeated and case in WRAPPERS else one.error_type
        expected = ValueError if repeated and case in OPTIMIZERS else expected
        if one.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(expected) as caught:
                case.make(params, **given.kwargs)
                pytest.fail(given.desc)
        else:
            optimizer = case.make(params, **given.kwargs)
            with pytest.raises(expected) as caught:
                optimizer.step(lambda: torch.zeros(()))
        assert "\n" not in str(caught.value), given.desc


@every_optimizer
def test_flags_that_exclude_each_other_are_refused(case):
    pairs = [{"foreach": True, "differentiable": True}]
    if "fused" in case.flags:
        pairs += [{"fused": True, "foreach": True}, {"fused": True, "differentiable": True}]
    for options in pairs:
        with pytest.raises(RuntimeError) as caught:
            case.make(make_parameters(), **options)
        assert all(f"`{name}`" in str(caught.value) for name in options)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="Tensor"):
        case.make(make_parameters(), lr=torch.tensor(0.1), foreach=True)


@every_optimizer
def test_complex_parameters_are_refused_or_right(case):
    """torch's AdamW takes them as pairs of reals; the others say what to do instead."""
    param = nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))
    pairs = nn.Parameter(torch.view_as_real(param.detach()).clone())
    gradient = torch.randn(3, 2, dtype=torch.complex64)
    optimizer = case.make([param])
    if not isinstance(optimizer, torch.optim.AdamW):
        param.grad = gradient
        with pytest.raises(RuntimeError, match="gradients must be real"):
            optimizer.step()
        return
    real = case.make([pairs])
    for _ in range(3):
        param.grad, pairs.grad = gradient.clone(), torch.view_as_real(gradient).clone()
        optimizer.step()
        real.step()
    torch.testing.assert_close(torch.view_as_real(param.detach()), pairs.detach())


class LiveMemory(TorchDispatchMode):
    """Bytes of the tensors made while it is active: those alive now, and the most at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in torch.utils._pytree.tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self.known.add(tensor.untyped_storage()._cdata)
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.follow(tensor.untyped_storage())
        return result

    def follow(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        self.live += storage.nbytes()
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())

    def forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


@every
def test_a_step_needs_little_memory_beside_its_state(case):
    """At most one scratch tensor of the largest parameter's size (Muon's iteration: more, in bfloat16)."""
    if case.closure:
        pytest.skip("its closure is a backward pass")
    params = [nn.Parameter(torch.randn(size)) for size in ((1024, 512), (64, 64), (64, 64), (7,))]
    optimizer = case.make(params)
    for _ in range(2):  # Lookahead's second step is the one that synchronises
        for param in params:
            param.grad = torch.randn_like(param)
        optimizer.step()
    most = []
    for _ in range(2):
        with LiveMemory() as memory:
            optimizer.step()
        assert memory.live == 0
        most.append(memory.most)
    assert max(most) / (4 * params[0].numel()) <= case.scratch + 1e-4  # and a few scalars


@every_wrapper
def test_wrappers_are_invisible(case):
    params = make_parameters()
    optimizer = case.make(params, lr=0.3)
    assert isinstance(optimizer, Optimizer)
    inner = optimizer.optimizer
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.defaults == inner.defaults
    assert repr(optimizer)
    advance(optimizer, params, range(3))
    optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
    assert optimizer.param_groups is inner.param_groups
    schedule = ExponentialLR(optimizer, 0.5)
    advance(optimizer, params, [3])
    schedule.step()
    assert inner.param_groups[0]["lr"] == 0.15


@every
def test_a_scaler_unscales_and_skips(case):
    """A step with infinite gradients changes nothing and counts nowhere (pitfall 11)."""
    if case.closure:
        pytest.skip("GradScaler takes no closures")
    param, twin = (nn.Parameter(torch.ones(3, 2)) for _ in range(2))
    optimizer, plain = case.make([param], lr=0.1), case.make([twin], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(5):
        gradient = draw_gradients([param], step)[0]
        optimizer.zero_grad()
        scaler.scale((param * (gradient * float("inf") if step == 2 else gradient)).sum()).backward()
        scaler.step(optimizer)
        scaler.update(1024.0)
        if step != 2:
            twin.grad = gradient
            plain.step()
    assert_same(snapshot(optimizer, [param]), snapshot(plain, [twin]))
