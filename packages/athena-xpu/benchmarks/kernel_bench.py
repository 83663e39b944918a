"""What the rows of bench_kernels.py share: kernels, peers without them, comparison, timing and verdict."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from device_clock import Clock
from kernel_cases import Case, Draw
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from athena_core import kernels_disabled
from athena_core._kernels import OPS
from athena_core.testing._kernels import TOLERANCE
from athena_core.testing.bench import row
from athena_xpu import above_peak
from athena_xpu._plugin import kernels_for

NOISE = 0.97  # two medians of the same kernel differ by up to 3 %
Row = dict[str, Any]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tensors(tree: Any) -> list[Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, Tensor)]


def gradient(function: Callable[..., Any], args: tuple[Any, ...], wanted: Iterable[int]) -> Callable[[], Any]:
    """Run a function forward, and return its pass backward, which can be repeated."""
    args = tree_map_only(Tensor, lambda one: one.detach(), args)
    leaves = [args[i].requires_grad_() for i in wanted]
    outputs = tensors(function(*args))
    slopes = [torch.ones_like(one) for one in outputs]
    return lambda: torch.autograd.grad(outputs, leaves, slopes, retain_graph=True)


class Bench:
    """What the rows share: the device, its measured bandwidth, and the peers that are here."""

    def __init__(self, device: torch.device, *, repeats: int, smoke: bool) -> None:
        self.clock, self.device, self.smoke = Clock(device), device, smoke
        self.repeats = 1 if smoke else repeats
        self.bandwidth = self.clock.copy_bandwidth(2**16 if smoke else 2**30, self.repeats)
        self.peak = self.clock.peak_bandwidth(self.bandwidth)
        self.tolerance = {one.op: one.tolerance for one in kernels_for(device.type)}
        try:
            import liger_kernel.transformers.functional as liger

            self.liger: Any = liger
        except ImportError as error:
            self.liger = None
            print(f"Liger-Kernel is left out: {error}", file=sys.stderr)

    def draw(self, dtype: torch.dtype) -> Draw:
        torch.manual_seed(0)
        return Draw(self.device, dtype, self.smoke)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same as torch compiles it; not in a smoke test, which it would make twice as long."""
        torch._dynamo.reset()
        # A compiled backward pass that may overwrite what it was given runs but once.
        torch._functorch.config.donated_buffer = False
        return self.plain(torch.compile(function, disable=self.smoke))

    def plain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same without kernels, also in what it calls."""

        def run(*args: Any) -> Any:
            with kernels_disabled():
                return function(*args)

        return run

    def kernel(self, op: str, *args: Any) -> Any:
        """What the kernel returns. Raises RuntimeError if the reference would run."""
        record = OPS[op]
        reference = record.reference

        def refuse(*_: Any) -> Any:
            raise RuntimeError(f"{op}: the reference would run, not the kernel")

        record.reference = refuse
        try:
            return record.overload(*args)
        finally:
            record.reference = reference

    def exact(self, tree: Any) -> Any:
        """Copies in float64, on the host where the device has none."""
        try:
            torch.ones(1, dtype=torch.float64, device=self.device)
        except (RuntimeError, TypeError):
            tree = tree_map_only(Tensor, lambda one: one.cpu(), tree)
        return tree_map_only(Tensor, lambda one: one.double() if one.is_floating_point() else one, tree)

    def check(self, case: Case, args: tuple[Any, ...], dtype: torch.dtype) -> None:
        """Compare a kernel with its reference in float64, forward and backward."""
        plain, exact = self.plain(OPS[case.op].reference), self.exact(args)
        with torch.no_grad():
            self.compare(case.op, dtype, self.kernel(case.op, *args), plain(*exact))
        found = gradient(partial(self.kernel, case.op), args, case.wanted)()
        self.compare(case.op, dtype, found, gradient(plain, exact, case.wanted)())

    def compare(self, op: str, dtype: torch.dtype, found: Any, expected: Any) -> None:
        """Raises AssertionError if results differ by more than the op's tolerance in this dtype."""
        tolerance = self.tolerance[op].get(name_of(dtype), TOLERANCE[name_of(dtype)])
        for one, other in zip(tensors(found), tensors(expected), strict=True):
            scale = max(1.0, other.abs().max().item())
            error = (one.to(other.device).double() - other).abs().max().item() / scale
            assert error <= tolerance, f"{op}, {name_of(dtype)}: error {error:.2g} above {tolerance:.2g}"

    def usable(self, calls: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        """What the calls return; a peer whose call fails is left out."""
        found = {}
        for name, call in calls.items():
            try:
                found[name] = call()
            except Exception as error:
                if name == "ours":
                    raise
                print(f"{name} is left out: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return found

    def timed(
        self,
        case: str,
        functions: Mapping[str, Callable[[], object]],
        *,
        moved: int = 0,
        operations: float = 0,
        throughput: float = float("inf"),
        share: float | None = None,
        ratios: Mapping[str, float] | None = None,
    ) -> Row:
        """Time "ours" and its peers; judge ours by its share of the bandwidth and its ratio to each peer."""
        functions = {name: functions[name] for name in self.usable(functions)}
        found = self.clock.medians(self.repeats, functions)
        hardware = {"bandwidth": self.peak, "operations": operations, "throughput": throughput}
        if faults := above_peak(found["ours"], moved=moved, **hardware):
            raise RuntimeError(f"rejected: {faults[0]}")
        ours, peers = 1e3 * found["ours"], {name: 1e3 * t for name, t in found.items() if name != "ours"}
        limit = 1e3 * moved / self.bandwidth if moved else None
        bars = {name: least for name, least in (ratios or {}).items() if name in peers}
        missed = [name for name, least in bars.items() if peers[name] / ours < least * NOISE]
        if share is not None and limit is not None and limit / ours < share:
            missed.insert(0, "bandwidth")
        bar = [f"{share:.0%} of copy"] if share else []
        bar += [f"{least:g} x {name}" for name, least in bars.items()]
        return row(
            case,
            ours=ours,
            peers=peers,
            unit="ms",
            limit=limit,
            bytes=moved,
            bar=bar,
            verdict=self.judged(missed) if bar else "no bar",
        )

    def judged(self, missed: list[str]) -> str:
        if self.smoke:
            return "not judged"
        return f"missed: {', '.join(missed)}" if missed else "pass"
