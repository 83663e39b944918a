"""`linear_cross_entropy` against plain Python and torch's cross-entropy of all logits."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import AotEagerAndRecordGraphs, CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from athena_nn import _cross_entropy, linear_cross_entropy
from athena_nn._cross_entropy import _op, _samples


def plain_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor, smoothing: float
) -> list[float]:
    """The loss of each row, without a single tensor operation."""
    losses = []
    for row, target in zip(hidden.tolist(), targets.tolist(), strict=True):
        logits = [
            sum(h * w for h, w in zip(row, word, strict=True)) + b
            for word, b in zip(weight.tolist(), bias.tolist(), strict=True)
        ]
        total = math.log(sum(math.exp(z) for z in logits))
        aimed = (1 - smoothing) * logits[target] + smoothing * sum(logits) / len(logits)
        losses.append(total - aimed)
    return losses


def of_all_logits(hidden, weight, targets, bias=None, **options):
    logits = F.linear(hidden, weight, bias).flatten(0, -2)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, targets.flatten().long(), **options)


def drawn(rows=5, width=3, words=7, dtype=torch.float64):
    hidden, weight, bias = (
        torch.randn(shape).to(dtype) for shape in ((rows, width), (words, width), (words,))
    )
    targets = torch.randint(words, (rows,))
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), targets


def assert_all_close(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        scale = max(1.0, other.abs().max().item()) if other.numel() else 1.0
        torch.testing.assert_close(one / scale, other / scale, **tolerance)


@pytest.fixture
def tiny_chunks(monkeypatch):
    """Two rows at a time, so that small inputs meet several chunks and an odd last one."""
    monkeypatch.setattr(_cross_entropy, "_ROWS", 2)
    monkeypatch.setattr(_cross_entropy, "_LOGITS", 0)


class Largest(TorchDispatchMode):
    """Notes the largest result of any operation, in elements."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, Tensor):
                self.size = max(self.size, one.numel())
        return result


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_plain_python(reduction, smoothing, tiny_chunks):
    hidden, weight, bias, targets = drawn()
    losses = plain_cross_entropy(hidden, weight, targets, bias, smoothing)
    expected = sum(losses) / (len(losses) if reduction == "mean" else 1)
    found = linear_cross_entropy(
        hidden, weight, targets, bias=bias, reduction=reduction, label_smoothing=smoothing
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_equals_torch_on_all_samples(dtype, tolerance, tiny_chunks):
    """Forward and backward; the samples that kernels are compared on, so they are tried too."""
    for args in _samples("cpu", dtype, torch.Generator().manual_seed(0)):
        args = [one.clone() if isinstance(one, Tensor) else one for one in args]
        leaves = [one.requires_grad_() for one in args if isinstance(one, Tensor) and one.is_floating_point()]
        defaults = (None, -100, "mean", 0.0)
        hidden, weight, targets, bias, index, reduction, smoothing = (*args, *defaults[len(args) - 3 :])
        loss = _op(*args)
        expected = of_all_logits(
            hidden, weight, targets, bias, ignore_index=index, reduction=reduction, label_smoothing=smoothing
        )
        assert loss.dtype == torch.promote_types(dtype, torch.float32)
        assert_all_close([loss], [expected], **tolerance)
        assert_all_close(
            torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), **tolerance
        )


@given(
    rows=st.integers(0, 9),
    words=st.integers(1, 9),
    chunk=st.integers(1, 4),
    ignored=st.sets(st.integers(0, 8)),
    reduction=st.sampled_from(["mean", "sum"]),
)
def test_any_split_and_any_ignored_rows_equal_torch(rows, words, chunk, ignored, reduction):
    """The mean of no rows is NaN with zero gradients, as torch's."""
    hidden, weight, bias, targets = drawn(rows, 4, words)
    targets[[row for row in ignored if row < rows]] = -100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cross_entropy, "_ROWS", chunk)
        patch.setattr(_cross_entropy, "_LOGITS", 0)
        loss = linear_cross_entropy(hidden, weight, targets, bias=bias, reduction=reduction)
    expected = of_all_logits(hidden, weight, targets, bias, reduction=reduction)
    torch.testing.assert_close(loss, expected, equal_nan=True)
    leaves = hidden, weight, bias
    assert_all_close(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), rtol=1e-10, atol=1e-12
    )


def test_never_holds_all_logits(tiny_chunks):
    hidden, weight, bias, targets = drawn(rows=64, width=3, words=50)
    with Largest() as ours:
        linear_cross_entropy(hidden, weight, targets, bias=bias).backward()
    with Largest() as plain:
        of_all_logits(hidden, weight, targets, bias).backward()
    assert plain.size == 64 * 50
    assert ours.size == max(2 * 50, weight.numel(), hidden.numel())


def test_makes_three_products_a_chunk_and_one_without_gradients(tiny_chunks):
    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function.overloadpacket.__name__ in ("mm", "addmm", "addmm_")
            return function(*args, **(kwargs or {}))

    hidden, weight, _, targets = drawn(rows=6)
    with Products() as trained:
        linear_cross_entropy(hidden, weight, targets).backward()
    with Products() as judged, torch.no_grad():
        linear_cross_entropy(hidden, weight, targets)
    with Products() as frozen:
        linear_cross_entropy(hidden, weight.detach(), targets).backward()
    assert (trained.count, judged.count, frozen.count) == (9, 3, 6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradcheck_twice_batched_and_forward_mode(reduction, smoothing, tiny_chunks):
    hidden, weight, bias, targets = drawn()
    targets[2] = -100

    def loss(hidden, weight, bias):
        return linear_cross_entropy(
            hidden, weight, targets, bias=bias, reduction=reduction, label_smoothing=smoothing
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's forward mode uses its own torch.jit
        assert torch.autograd.gradcheck(
            loss, (hidden, weight, bias), check_batched_grad=True, check_forward_ad=True
        )
    assert torch.autograd.gradgradcheck(loss, (hidden, weight, bias))


def test_transforms_equal_the_plain_call(tiny_chunks):
    _, weight, _, targets = drawn()
    batch = torch.randn(4, 5, 3, dtype=torch.float64)

    def loss(hidden, weight):
        return linear_cross_entropy(hidden, weight, targets)

    torch.testing.assert_close(
        torch.func.vmap(loss, in_dims=(0, None))(batch, weight),
        torch.stack([loss(one, weight) for one in batch]),
    )
    slopes = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None))(batch, weight.detach())
    leaf = batch.clone().requires_grad_()
    expected = torch.autograd.grad(sum(loss(one, weight) for one in leaf), leaf)[0]
    torch.testing.assert_close(slopes, expected)


@pytest.mark.filterwarnings("ignore:Your compiler for AOTAutograd")  # of torch's own recording backend
def test_compiles_whole_and_stays_chunked(tiny_chunks):
    hidden, weight, bias, targets = drawn()

    def loss(hidden, weight, bias):
        return linear_cross_entropy(hidden, weight, targets, bias=bias)

    backend = AotEagerAndRecordGraphs()
    leaves = hidden, weight, bias
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend=backend)(*leaves), leaves)
    assert_all_close(found, torch.autograd.grad(loss(*leaves), leaves))
    nodes = [node for graph in backend.fw_graphs + backend.bw_graphs for node in graph.graph.nodes]
    held = [node.meta["val"].numel() for node in nodes if isinstance(node.meta.get("val"), Tensor)]
    assert max(held) == weight.numel() < hidden.shape[0] * weight.shape[0]


def test_compiles_once_for_all_lengths_within_a_chunk_and_once_for_each_doubling(monkeypatch):
    """A graph for each length would reach the compiler's limit, and end training with ``fullgraph``."""
    monkeypatch.setattr(_cross_entropy, "_ROWS", 64)
    monkeypatch.setattr(_cross_entropy, "_LOGITS", 0)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend=counter)
    weight, frames = torch.randn(20, 3, requires_grad=True), {}
    for length in (5, 7, 9, 16, 20, 21, 25, 30, 31, 32, 33, 40, 63, 64, 65, 66, 67, 71, 80, 99, 101, 128):
        hidden, targets = torch.randn(2, length, 3, requires_grad=True), torch.randint(20, (2, length))
        found, expected = compiled(hidden, weight, targets), of_all_logits(hidden, weight, targets)
        torch.testing.assert_close(found, expected)
        leaves = hidden, weight
        assert_all_close(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves))
        frames[length] = counter.frame_count
    assert (frames[32], frames[64], frames[128]) == (2, 3, 4)  # the first is that of one length alone


def test_autocast_makes_products_in_its_dtype_and_the_softmax_in_float32(tiny_chunks):
    hidden, weight, bias, targets = drawn(64, 16, 50, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets, bias=bias)
    exact = of_all_logits(hidden.double(), weight.double(), targets, bias.double())
    rounded = linear_cross_entropy(hidden.bfloat16().float(), weight.bfloat16().float(), targets, bias=bias)
    found = torch.autograd.grad(loss, (hidden, weight, bias))
    assert loss.dtype == torch.float32
    assert abs(loss - exact) < 2e-2
    assert loss != rounded  # the logits themselves are rounded
    assert [one.dtype for one in found] == [torch.float32] * 3
    assert_all_close(found, torch.autograd.grad(exact, (hidden, weight, bias)), rtol=2e-2, atol=2e-3)


def test_float64_stays_so_under_autocast(tiny_chunks):
    hidden, weight, _, targets = drawn()
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_cross_entropy(hidden, weight, targets)
    assert found == linear_cross_entropy(hidden, weight, targets)


def test_backward_twice_gives_the_same(tiny_chunks):
    hidden, weight, _, targets = drawn()
    loss = linear_cross_entropy(hidden, weight, targets)
    first = torch.autograd.grad(3 * loss, (hidden, weight), retain_graph=True)
    again = torch.autograd.grad(3 * loss, (hidden, weight))
    assert_all_close(first, again, rtol=0, atol=0)


def test_ignored_rows_need_not_be_finite(tiny_chunks):
    hidden, weight, _, targets = drawn()
    with torch.no_grad():
        hidden[1] = torch.nan
    targets[1] = -100
    loss = linear_cross_entropy(hidden, weight, targets)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert loss.isfinite()
    assert all(one.isfinite().all() for one in gradients)
    assert gradients[0][1].eq(0).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_seen_in_the_loss(bad, tiny_chunks):
    hidden, weight, _, targets = drawn()
    with torch.no_grad():
        hidden[1] = bad
    assert not linear_cross_entropy(hidden, weight, targets).isfinite()


def test_large_logits_do_not_overflow():
    hidden = torch.tensor([[1000.0]], requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.tensor([[1.0], [-1.0]]), torch.tensor([1]))
    assert loss.item() == 2000
    assert torch.autograd.grad(loss, hidden)[0].item() == 2


def test_leading_axes_and_strides_do_not_matter(tiny_chunks):
    hidden, weight = torch.randn(2, 6, 5)[:, ::2], torch.randn(5, 9).T
    targets = torch.randint(9, (3, 2)).T
    torch.testing.assert_close(
        linear_cross_entropy(hidden, weight, targets), of_all_logits(hidden, weight, targets)
    )


@pytest.mark.parametrize("target", [7, -1, -101])
def test_targets_outside_the_vocabulary_are_refused(target):
    hidden, weight, _, targets = drawn()
    targets[3] = target
    with pytest.raises(ValueError, match=rf"`targets` must lie in \[0, 7\).*got {target}\."):
        linear_cross_entropy(hidden, weight, targets)


def test_any_target_may_be_the_ignored_one():
    hidden, weight, _, targets = drawn()
    targets[3] = 7
    kept = [0, 1, 2, 4]
    torch.testing.assert_close(
        linear_cross_entropy(hidden, weight, targets, ignore_index=7),
        linear_cross_entropy(hidden[kept], weight, targets[kept]),
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden": torch.ones(5, 4)}, r"got \(5, 4\) and \(7, 3\)"),
        ({"weight": torch.ones(3)}, r"got \(5, 3\) and \(3,\)"),
        ({"targets": torch.ones(4, dtype=torch.long)}, r"its last axis, \(5,\); got \(4,\)"),
        ({"targets": torch.ones(5)}, "int64 or int32; got torch.float32"),
        ({"bias": torch.ones(3)}, r"\(7,\); got \(3,\)"),
        ({"weight": torch.ones(7, 3, dtype=torch.bfloat16)}, "torch.float32 and torch.bfloat16"),
        ({"reduction": "none"}, "'mean' or 'sum'; got 'none'"),
        ({"label_smoothing": 1.5}, r"\[0, 1\]; got 1.5"),
    ],
)
def test_bad_arguments_are_refused(changed, message):
    given = {
        "hidden": torch.ones(5, 3),
        "weight": torch.ones(7, 3),
        "targets": torch.ones(5, dtype=torch.long),
    }
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**(given | changed))
