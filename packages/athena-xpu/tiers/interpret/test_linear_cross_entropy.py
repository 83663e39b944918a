"""The kernel of linear_cross_entropy."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from drawn import KERNELS, draw_int, draw_rows, draw_width
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from athena_core import kernels_disabled
from athena_core.testing import check_drawn
from athena_core.testing._kernels import offered
from athena_nn import linear_cross_entropy
from athena_xpu.kernels import _linear_cross_entropy as kernel

KERNEL = KERNELS["athena_nn::linear_cross_entropy"]


def draw(dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, ...]:
    """All options; rows that are ignored, sometimes all of a mean's, and targets of both dtypes."""
    rows = draw_rows(generator, 3)  # each is a program of its own, which takes time
    width, vocabulary = draw_width(generator, 20), draw_width(generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    targets = torch.randint(vocabulary, rows, generator=generator)
    ignore_index = (-100, -1, 0, 1)[draw_int(0, 3, generator)]
    ignored = torch.rand(rows, generator=generator) < 0.3
    if ignored.numel() and not ignored.all():  # else NaN, which has a test of its own
        targets[ignored] = ignore_index
    reduction = "sum"
    if (targets != ignore_index).any():
        reduction = ("mean", "sum")[draw_int(0, 1, generator)]
    targets = targets.to((torch.int64, torch.int32)[draw_int(0, 1, generator)])
    bias = normal(vocabulary) if draw_int(0, 1, generator) else None
    smoothing = (0.0, 0.1, 1.0)[draw_int(0, 2, generator)]
    hidden, weight = normal(*rows, width), normal(vocabulary, width) / width**0.5
    return hidden, weight, targets, bias, ignore_index, reduction, smoothing


def test_drawn() -> None:
    check_drawn(KERNEL, draw)


def problem(
    rows: int = 12, width: int = 6, vocabulary: int = 50, *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    hidden, weight = torch.randn(rows, width, dtype=dtype), torch.randn(vocabulary, width, dtype=dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(vocabulary, (rows,))


def outcome(hidden: Tensor, weight: Tensor, targets: Tensor, **options: Any) -> list[Tensor]:
    loss = linear_cross_entropy(hidden, weight, targets, **options)
    return [loss.detach(), *torch.autograd.grad(loss, [hidden, weight])]


def assert_as_reference(*args: Tensor, **options: Any) -> None:
    with offered(KERNEL):
        found = outcome(*args, **options)
    with kernels_disabled():
        expected = outcome(*args, **options)
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_wider_than_a_block() -> None:
    def wide(dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        hidden, weight = (torch.randn(n, 4, generator=generator).to(dtype) for n in (3, 2 * 8192 + 5))
        return hidden, weight, torch.tensor([0, 8192, 2 * 8192 + 4])

    check_drawn(KERNEL, wide, draws=6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("few", [1, 8])
def test_chunks_are_summed(dtype: torch.dtype, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of unequal sizes; a bfloat16 gradient summed in its own dtype, or in float32."""
    monkeypatch.setattr(kernel, "_LEAST_ROWS", 1)
    monkeypatch.setattr(kernel, "_FEW_CHUNKS", few)
    hidden, weight, targets = problem(rows=13, width=3, dtype=dtype)
    assert kernel.chunks_of(13, 3, 50, 4) == 5
    summed = kernel._empty_gradients(hidden, weight, None, dtype, [True] * 3)[1].dtype
    assert summed == (torch.bfloat16 if dtype == torch.bfloat16 and few == 8 else torch.float32)
    with offered(KERNEL):
        loss, for_hidden, for_weight = outcome(hidden, weight, targets)
    exact = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected = outcome(*exact, targets)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    for one, other in zip((loss, for_hidden, for_weight), expected, strict=True):
        assert (one.double() - other).abs().max() <= tolerance * other.abs().max()


def test_chunks_are_chosen_by_memory() -> None:
    bytes_of_weight = 131_072 * 4096 * 2
    chunks = kernel.chunks_of(8 * 2048, 4096, 131_072, 2)
    assert 8 * 2048 // chunks * 131_072 * 2 <= bytes_of_weight
    assert chunks == 4
    assert kernel.chunks_of(1024, 64, 2**30, 2) == 1024  # no chunk is above 2 GiB
    assert kernel.chunks_of(0, 64, 10, 2) == 1


def test_the_mean_of_no_rows_is_nan_with_gradients_of_zero() -> None:
    hidden, weight, targets = problem()
    for rows in (12, 0):
        with offered(KERNEL):
            loss, *gradients = outcome(hidden[:rows], weight, torch.full_like(targets[:rows], -100))
        assert loss.isnan()
        assert not any(one.any() for one in gradients)


def test_what_is_ignored_may_not_be_finite() -> None:
    hidden, weight, targets = problem()
    targets[3], targets[5] = -100, -100
    with torch.no_grad():
        hidden[3], hidden[5, 0] = torch.nan, torch.inf
    assert_as_reference(hidden, weight, targets, label_smoothing=0.1)


# NumPy's, from Triton's interpreter.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:All-NaN:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan, 1e38, -1e38])
@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 33), slice(None)])
def test_logits_that_are_not_finite(value: float, rows: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words that are forbidden by a bias of -inf, a whole block of them among others."""
    monkeypatch.setattr(kernel, "block_of", lambda width, most: (16, 1))
    hidden, weight, targets = problem()
    bias = torch.zeros(50)
    bias[rows] = value
    targets[:] = 40
    assert_as_reference(hidden, weight, targets, bias=bias)


def test_a_target_outside_gives_nan() -> None:
    """On a device the reference asserts, without being waited for."""
    hidden, weight, targets = problem()
    targets[2] = 50
    with offered(KERNEL):
        loss = torch.ops.athena_nn.linear_cross_entropy(hidden, weight, targets)
    assert loss.isnan()


class Seen(torch.utils._python_dispatch.TorchDispatchMode):
    """Records ops, and the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.names, self.largest = set(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.add(func.name())
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def test_the_host_waits_for_nothing_and_holds_one_chunk_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_LEAST_ROWS", 4)
    monkeypatch.setattr(kernel, "turn", lambda *args: None)  # the interpreter copies
    hidden, weight, targets = (one.detach() for one in problem(rows=40, width=2))
    for needed in ([False] * 3, [True] * 3):
        with Seen() as seen:
            kernel._run(hidden, weight, targets, None, -100, True, 0.0, torch.float32, needed)
        assert seen.largest == 4 * 50
        assert not {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"} & seen.names


class Peak(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the bytes of the storages that ops make, and that are still held, beside the arguments'."""

    def __init__(self, *args: Tensor) -> None:
        super().__init__()
        self.held = self.most = 0
        self.known = {one.untyped_storage()._cdata for one in args}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, Tensor) and (storage := one.untyped_storage())._cdata not in self.known:
                self.known.add(storage._cdata)
                self.held += storage.nbytes()
                weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.held)
        return result

    def forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.held -= size


@pytest.mark.parametrize("width", [1024, 2048, 4096])
def test_a_tenth_of_the_plain_memory(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 x 2,048 rows and 131,072 words in bfloat16, forward and backward, without data."""
    monkeypatch.setattr(kernel, "turn", lambda *args: None)

    def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
        F.cross_entropy(F.linear(hidden, weight).float(), targets).backward()

    def ours(*args: Tensor) -> None:
        loss, *gradients, count = kernel._run(
            *args, None, -100, True, 0.0, torch.bfloat16, [True, True, False]
        )
        shapes = [(one.shape, one.dtype) for one in args[:2]]
        ctx = SimpleNamespace(saved_tensors=(*gradients, count), like=[*shapes, None])
        kernel.Formula.backward(ctx, torch.ones_like(loss))

    peaks = []
    for function in (plain, ours):
        with FakeTensorMode():
            hidden, weight = (torch.empty(n, width, dtype=torch.bfloat16) for n in (8 * 2048, 131_072))
            targets = torch.zeros(8 * 2048, dtype=torch.long)
            if function is plain:
                hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
            with Peak(hidden, weight, targets) as peak:
                function(hidden, weight, targets)
        peaks.append(peak.most)
    assert peaks[0] >= 23 * 2**30
    assert peaks[1] <= peaks[0] / 10


def assert_under_autocast(found: list[Tensor], expected: list[Tensor]) -> None:
    """Losses are equal only if the products were made in one dtype.

    Triton's interpreter cuts where a device rounds to bfloat16, which the gradients show.
    """
    torch.testing.assert_close(found[0], expected[0])
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert (one - other).abs().max() <= 1e-2 * other.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_makes_the_products_in_its_dtype(dtype: torch.dtype) -> None:
    hidden, weight, targets = problem()

    def both() -> list[Tensor]:
        loss = linear_cross_entropy(hidden.to(dtype), weight, targets)
        return [loss.detach(), *torch.autograd.grad(loss, [hidden, weight])]

    with torch.autocast("cpu", torch.bfloat16):
        with offered(KERNEL):
            found = both()
        with kernels_disabled():
            assert_under_autocast(found, both())


def test_compiled_under_autocast_with_sizes_that_change() -> None:
    """Autocast is over when the compiled graph runs: its dtype is part of the graph."""

    def both(function: Any, rows: int) -> list[Tensor]:
        torch.manual_seed(0)
        hidden, weight, targets = problem(rows=rows)
        loss = function(hidden, weight, targets)
        return [loss.detach(), *torch.autograd.grad(loss, [hidden, weight])]

    compiled = torch.compile(linear_cross_entropy, backend="aot_eager", fullgraph=True, dynamic=True)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            for rows in (12, 7):
                with kernels_disabled():
                    expected = both(linear_cross_entropy, rows)
                with offered(KERNEL):
                    assert_under_autocast(both(compiled, rows), expected)
    finally:
        torch._dynamo.reset()


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": torch.zeros(2, 3, dtype=torch.float64), "weight": torch.zeros(4, 3, dtype=torch.float64)},
        {"weight": torch.zeros(0, 3)},
        {"targets": torch.zeros(1, dtype=torch.long)},
        {"bias": torch.zeros(4, dtype=torch.float64)},
        {"weight": torch.zeros(4, 3, device="meta")},
        {"targets": torch.zeros(2, dtype=torch.long, device="meta")},
        {"bias": torch.zeros(4, device="meta")},
    ],
    ids=lambda change: " ".join(f"{name} {one.dtype} {one.device}" for name, one in change.items()),
)
def test_what_the_reference_keeps(change: dict[str, Tensor]) -> None:
    args = {"hidden": torch.zeros(2, 3), "weight": torch.zeros(4, 3), "targets": torch.tensor([0, 1])}
    assert kernel.supports(**args)
    assert not kernel.supports(**args | change)
