"""The checks that every kernel must pass: it does what its op's reference does, in every mode of torch."""

from __future__ import annotations

import unittest
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from athena_core import _kernels
from athena_core._component import Kernel
from athena_core._errors import AthenaError
from athena_core._host import KernelOffer
from athena_core._target import resolve
from athena_core.testing._check import Check
from athena_core.testing._kernel_outcomes import (
    _changed,
    _compare,
    _copy,
    _differentiable,
    _exact,
    _gradients,
    _is_stale,
    _layout,
    _layouts,
    _leaves,
    _outcome,
    _second_gradients,
    _tensors,
    called,
    lowering,
)

# Largest error against the float64 reference, relative to its largest value or 1: the dtype's epsilon
# times what a reduction of a few hundred elements loses.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}

Samples = Callable[[str, torch.dtype, torch.Generator], Iterable[tuple[Any, ...]]]


@contextmanager
def offered(*kernels: Kernel, distribution: str = "under-test") -> Iterator[None]:
    """Let these be the only kernels that plugins offer for their ops, for the length of the block."""
    ops = {_kernels.OPS[kernel.op] for kernel in kernels}
    for op in ops:
        _kernels.forget(op)
        op.claims = {one.device: KernelOffer(one, distribution) for one in kernels if one.op == op.name}
    try:
        yield
    finally:
        for op in ops:
            _kernels.forget(op)


def kernel_checks(kernel: Kernel | KernelOffer, samples: Samples | None = None) -> Iterator[Check]:
    """Yield the checks that a kernel must pass on its own device.

    It is compared with the reference in float64, forward and backward, over the samples' shapes, in
    other memory layouts, and in each dtype; then under ``torch.func``, ``create_graph``, fake tensors,
    ``torch.compile``, autocast and inference mode. A kernel that changes its arguments is asked to
    bump their versions instead, and the results of one without a gradient to carry none. Checks skip
    themselves where the device is not there.

    Args:
        kernel: its tolerances widen or narrow `TOLERANCE`.
        samples: in place of those that the op was defined with.

    >>> [check.name for check in kernel_checks(Kernel("my::op", "cpu", "math:sqrt"))]
    ['my::op on cpu: op is defined']
    """
    kernel = kernel.kernel if isinstance(kernel, KernelOffer) else kernel
    label = f"{kernel.op} on {kernel.device}"
    yield Check(f"{label}: op is defined", partial(_check_defined, kernel))
    with suppress(Exception):  # the check above tells
        _check_defined(kernel)
    op = _kernels.OPS.get(kernel.op)
    if op is None:
        return
    yield Check(f"{label}: obeys the op's rules", partial(_check_rules, op, kernel))
    trial = _Trial(op, kernel, samples or op.samples)
    laws = _MUTATING if op.mutated else _PURE if op.differentiable else _WITHOUT_GRADIENT
    for law in laws:
        yield Check(f"{label}: {law.__name__.replace('_', ' ')}", partial(trial.run, law))


def _check_defined(kernel: Kernel) -> None:
    """Skips where the op's owner, the module named as its namespace, or what the kernel needs is absent."""
    owner = kernel.op.partition("::")[0]
    try:
        resolve(kernel.target)  # brings in the op where the kernel's module imports its owner
    except AthenaError as error:
        raise unittest.SkipTest(str(error)) from error
    if kernel.op not in _kernels.OPS:
        if find_spec(owner) is None:
            raise unittest.SkipTest(f"{owner}, which may own the op, is not installed")
        _import_names(import_module(owner))
    assert kernel.op in _kernels.OPS, f"{owner} does not define {kernel.op}; see the op's name"


def _import_names(package: Any) -> None:
    """Load all that a lazy package exports: one of its modules defines the op."""
    for name in getattr(package, "__all__", ()):
        with suppress(Exception):  # what needs an extra
            getattr(package, name)


def _check_rules(op: _kernels.Op, kernel: Kernel) -> None:
    try:
        _kernels.load(op, kernel)
    except ValueError as error:
        raise AssertionError(str(error)) from error
    except AthenaError as error:  # it says what it lacks here
        raise unittest.SkipTest(str(error)) from error


@dataclass(frozen=True)
class _Trial:
    op: _kernels.Op
    kernel: Kernel
    samples: Samples | None

    def run(self, law: Callable[[_Trial], None]) -> None:
        try:
            torch.empty(0, device=self.kernel.device)
        except (RuntimeError, AssertionError) as error:
            raise unittest.SkipTest(f"no {self.kernel.device} device here: {error}") from error
        with offered(self.kernel):
            law(self)

    def tolerance(self, dtype: torch.dtype) -> float:
        name = str(dtype).removeprefix("torch.")
        return self.kernel.tolerance.get(name, TOLERANCE[name])

    def draw(self, dtype: torch.dtype, seed: int = 0) -> list[tuple[Any, ...]]:
        assert self.samples is not None, f"{self.op.name} has no samples; give `op` some, or `kernel_checks`"
        generator = torch.Generator().manual_seed(seed)  # the same samples for every device
        return list(self.samples(self.kernel.device, dtype, generator))

    def one(self, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
        """Return the smallest sample that is not empty."""
        full = [args for args in self.draw(dtype) if all(one.numel() for one in _tensors(args))]
        return min(full, key=lambda args: sum(one.numel() for one in _tensors(args)))

    def dtypes(self) -> list[torch.dtype]:
        """Return the dtypes for which samples can be made on the device."""
        return [dtype for dtype in map(partial(getattr, torch), TOLERANCE) if self._drawable(dtype)]

    def _drawable(self, dtype: torch.dtype) -> bool:
        try:
            torch.ones(1, dtype=dtype, device=self.kernel.device)
        except (RuntimeError, TypeError):  # a device without float64
            return False
        return True

    def reference(self, args: tuple[Any, ...], *, exact: bool = False) -> Any:
        """Run the reference on copies; ``exact``: on the host, in float64."""
        with _kernels.kernels_disabled():
            return _outcome(self.op, self.op.reference, _exact(args) if exact else _copy(args))

    def actual(self, args: tuple[Any, ...]) -> Any:
        return _outcome(self.op, self.op.overload, _copy(args))

    @contextmanager
    def counting(self) -> Iterator[list[None]]:
        """Count how often the reference runs."""
        reference, calls = self.op.reference, []

        def counted(*args: Any) -> Any:
            calls.append(None)
            return reference(*args)

        self.op.reference = counted
        try:
            yield calls
        finally:
            self.op.reference = reference


def samples_reach_the_kernel(trial: _Trial) -> None:
    sizes = [size for args in trial.draw(torch.float32) for one in _tensors(args) for size in one.shape]
    assert 0 in sizes, "no sample is empty"
    assert any(size % 2 and size > 1 for size in sizes), "no sample has an odd size"
    for dtype in map(partial(getattr, torch), trial.kernel.tolerance or ["float32"]):
        with trial.counting() as references:
            trial.actual(trial.one(dtype))
        assert not references, f"{dtype}: the reference ran; `supports` refuses what `tolerance` promises"


def forward_equals_the_reference(trial: _Trial) -> None:
    for dtype in trial.dtypes():
        for args in trial.draw(dtype):
            expected, exact = trial.reference(args), trial.reference(args, exact=True)
            for layout, laid in _layouts(args):
                with trial.counting() as references:
                    found = trial.actual(laid)
                if not references:  # where `supports` refuses, there is no kernel to judge
                    _compare(found, exact, trial.tolerance(dtype), f"{dtype}, {layout}", expected)


def output_stays_where_a_gradient_is_wanted(trial: _Trial) -> None:
    tolerance = trial.tolerance(torch.float32)
    for args in trial.draw(torch.float32):
        expected = trial.actual(args)
        found = _tensors(trial.op.overload(*_leaves(args)[0]))
        _compare(found, expected, tolerance, "output where a gradient is wanted", expected)
        assert _layout(found) == _layout(expected), "output where a gradient is wanted: another layout"


def backward_equals_the_reference(trial: _Trial) -> None:
    for dtype in trial.dtypes():
        for args in trial.draw(dtype):
            exact = _gradients(trial.op.reference, _exact(args))
            for layout, laid in _layouts(args):
                with trial.counting() as references:
                    found = _gradients(trial.op.overload, laid)
                if not references:
                    _compare(found, exact, trial.tolerance(dtype), f"gradient, {dtype}, {layout}")


def frozen_arguments_get_no_gradient(trial: _Trial) -> None:
    args = trial.one()
    every = _gradients(trial.op.overload, args)
    for kept in range(len(every)):
        alone = _gradients(trial.op.overload, args, only=kept)
        _compare(alone, [every[kept]], trial.tolerance(torch.float32), f"gradient of argument {kept} alone")


def gradients_agree_with_finite_differences(trial: _Trial) -> None:
    if torch.float64 not in trial.dtypes():
        raise unittest.SkipTest(f"{trial.kernel.device} has no float64")
    args = tree_map(
        lambda one: one.requires_grad_() if _differentiable(one) else one, _copy(trial.one(torch.float64))
    )
    assert torch.autograd.gradcheck(trial.op.overload, args)
    assert torch.autograd.gradgradcheck(trial.op.overload, args)


def second_derivatives_equal_the_reference(trial: _Trial) -> None:
    exact = _second_gradients(trial.op.reference, _exact(trial.one()))
    found = _second_gradients(trial.op.overload, _copy(trial.one()))
    _compare(found, exact, 10 * trial.tolerance(torch.float32), "second derivative")  # two backward passes


def transforms_run_the_reference(trial: _Trial) -> None:
    args, overload, reference = trial.one(), trial.op.overload, trial.op.reference
    first = next(i for i, one in enumerate(args) if isinstance(one, Tensor))

    def of_first(function: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
        return lambda x: _tensors(function(*args[:first], x, *args[first + 1 :]))[0]

    def outcomes(function: Callable[..., Any]) -> list[Any]:
        one = of_first(function)
        x = args[first]
        return [
            torch.vmap(one)(torch.stack([x, 2 * x])),
            torch.func.grad(lambda x: one(x).sum())(x),
            torch.func.jvp(one, (x,), (torch.ones_like(x),))[1],
            torch.vmap(torch.func.grad(lambda x: one(x).sum()))(torch.stack([x, 2 * x])),
        ]

    tolerance = trial.tolerance(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's forward mode uses its own torch.jit
        outcomes(reference)
    with trial.counting() as references:
        found = outcomes(overload)
    assert references, "under a functorch transform the kernel ran"
    _compare(found, outcomes(reference), tolerance, "vmap, grad, jvp, vmap of grad")
    with torch.autograd.forward_ad.dual_level(), trial.counting() as references:
        dual = torch.autograd.forward_ad.make_dual(args[first], torch.ones_like(args[first]))
        tangent = torch.autograd.forward_ad.unpack_dual(of_first(overload)(dual)).tangent
    assert references, "under forward-mode differentiation the kernel ran"
    assert tangent is not None, "forward-mode differentiation lost the tangent"
    _compare(tangent, found[2], tolerance, "tangent")


def fake_tensors_tell_the_layout(trial: _Trial) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    for args in trial.draw(torch.float32):
        for layout, laid in _layouts(args):
            with FakeTensorMode() as mode:
                fakes = tree_map(
                    lambda x, mode=mode: mode.from_tensor(x) if isinstance(x, Tensor) else x, laid
                )
                fake = trial.op.overload(*fakes)
            real = trial.op.overload(*laid)
            assert _layout(fake) == _layout(real), f"{layout}: fake {_layout(fake)}, kernel {_layout(real)}"


def graph_holds_the_op_alone(trial: _Trial) -> None:
    args, tolerance = trial.one(), trial.tolerance(torch.float32)
    backend, graphs = lowering()
    compiled = torch.compile(lambda *args: trial.op.overload(*args), backend=backend, fullgraph=True)
    try:
        _compare(_outcome(trial.op, compiled, _copy(args)), trial.actual(args), tolerance, "compiled")
        names = called(graphs[0])
        own = [name for name in names if name.startswith(trial.op.name.replace("::", "."))]
        if trial.kernel.compiled:
            assert names == own[:1], f"the graph holds {names}, not the op alone"
        else:
            assert not own, f"`compiled=False`, but the graph holds {own}"
        if not trial.op.mutated and trial.op.differentiable:
            _compare(
                _gradients(compiled, args),
                _gradients(trial.op.overload, args),
                tolerance,
                "compiled gradient",
            )
    finally:
        torch._dynamo.reset()


def modes_do_not_change_the_result(trial: _Trial) -> None:
    args, tolerance = trial.one(), trial.tolerance(torch.float32)
    expected = trial.actual(args)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            _compare(trial.actual(args), expected, tolerance, mode.__name__)
    with _kernels.kernels_disabled(), trial.counting() as references:
        _compare(trial.actual(args), expected, tolerance, "kernels_disabled")
    assert references, "under `kernels_disabled` the kernel ran"


def autocast_gives_the_same_dtype(trial: _Trial) -> None:
    args = trial.one()
    with torch.autocast(trial.kernel.device, torch.bfloat16):
        expected, found = trial.reference(args), trial.actual(args)
    _compare(found, expected, trial.tolerance(torch.bfloat16), "autocast", expected)


def arguments_stay_as_they_are(trial: _Trial) -> None:
    for args in trial.draw(torch.float32):
        mine = _copy(args)
        storages = {one.untyped_storage().data_ptr() for one in _tensors(mine) if one.numel()}
        versions = [one._version for one in _tensors(mine)]
        result = trial.op.overload(*mine)
        assert versions == [one._version for one in _tensors(mine)], "an argument's version changed"
        for before, after in zip(_tensors(args), _tensors(mine), strict=True):
            assert torch.equal(before, after), "an argument changed"
        shared = {one.untyped_storage().data_ptr() for one in _tensors(result) if one.numel()} & storages
        assert not shared, "a result shares an argument's memory"


def changes_are_counted(trial: _Trial) -> None:
    args = _copy(trial.one())
    changed = _changed(trial.op, args)
    weights = [torch.ones_like(one, requires_grad=True) for one in changed]
    products = [(weight * one).sum() for weight, one in zip(weights, changed, strict=True)]
    with torch.no_grad():
        trial.op.overload(*args)
    for product in products:
        assert _is_stale(product), "autograd did not see that an argument changed: its version was not bumped"


def gradients_run_the_reference(trial: _Trial) -> None:
    args = tree_map(lambda one: one.requires_grad_() if _differentiable(one) else one, _copy(trial.one()))
    args = tree_map(lambda one: one * 1 if _differentiable(one) else one, args)  # leaves cannot be changed
    with trial.counting() as references:
        trial.op.overload(*args)
    assert references, "the kernel ran where a gradient was wanted, and lost it"


def results_carry_no_gradient(trial: _Trial) -> None:
    args = tree_map(lambda one: one.requires_grad_() if _differentiable(one) else one, _copy(trial.one()))
    with trial.counting() as references:
        found = _tensors(trial.op.overload(*args))
    assert not references, "the reference ran where an argument requires a gradient"
    for results in (found, _tensors(trial.op.reference(*args))):
        assert not any(one.requires_grad for one in results), "a result requires a gradient"


_PURE = (
    samples_reach_the_kernel,
    forward_equals_the_reference,
    output_stays_where_a_gradient_is_wanted,
    backward_equals_the_reference,
    frozen_arguments_get_no_gradient,
    gradients_agree_with_finite_differences,
    second_derivatives_equal_the_reference,
    transforms_run_the_reference,
    fake_tensors_tell_the_layout,
    graph_holds_the_op_alone,
    modes_do_not_change_the_result,
    autocast_gives_the_same_dtype,
    arguments_stay_as_they_are,
)
_WITHOUT_GRADIENT = (
    samples_reach_the_kernel,
    forward_equals_the_reference,
    results_carry_no_gradient,
    fake_tensors_tell_the_layout,
    graph_holds_the_op_alone,
    modes_do_not_change_the_result,
    autocast_gives_the_same_dtype,
    arguments_stay_as_they_are,
)
_MUTATING = (
    samples_reach_the_kernel,
    forward_equals_the_reference,
    graph_holds_the_op_alone,
    modes_do_not_change_the_result,
    changes_are_counted,
    gradients_run_the_reference,
)
