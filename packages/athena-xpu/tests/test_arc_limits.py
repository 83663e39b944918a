"""`ArcLimits` refuses what would go to the device and does not fit there, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_core import AthenaError, DeviceCaps
from athena_xpu import ARCHITECTURES, ArcLimits

DEVICE = ArcLimits.device
WIDE = torch.float64
GIB = 2**30


def on_device(*shape: int) -> Tensor:
    return torch.ones(shape).to(DEVICE)


class Widened(torch.autograd.Function):
    """Float32 forward, float64 in the gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return (grad.double() * 2).float()


FLOAT64: dict[str, Callable[[], object]] = {
    "array": lambda: torch.as_tensor(np.ones(3)).to(DEVICE),
    "array, at once": lambda: torch.tensor(np.ones(3), device=DEVICE),
    "array, not copied": lambda: torch.as_tensor(np.ones(3), device=DEVICE),
    "list": lambda: torch.tensor([1.0], dtype=WIDE, device=DEVICE),
    "factory": lambda: torch.zeros(3, dtype=WIDE, device=DEVICE),
    "like": lambda: torch.zeros_like(on_device(2), dtype=WIDE),
    "like, from the host": lambda: torch.zeros_like(torch.ones(2, dtype=WIDE), device=DEVICE),
    "method": lambda: on_device(2).double(),
    "complex": lambda: on_device(2).to(torch.complex128),
    "sum": lambda: on_device(2).sum(dtype=WIDE),
    "scalar": lambda: torch.tensor(np.float64(1.0), device=DEVICE),
    "out": lambda: torch.add(on_device(2), 1, out=torch.empty(2, dtype=WIDE, device=DEVICE)),
    "backward": lambda: Widened.apply(on_device(2).requires_grad_()).sum().backward(),
    "view": lambda: on_device(4).view(WIDE),
    "module": lambda: nn.Linear(2, 2).double().to(DEVICE),
    "torch's scaler": lambda: _scale(torch.amp.GradScaler("cpu")),
}


def _scale(scaler: torch.amp.GradScaler) -> None:
    weight = on_device(3).requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scaler.scale(weight.sum()).backward()
    scaler.step(optimizer)


@pytest.mark.parametrize("make", FLOAT64.values(), ids=FLOAT64)
def test_float64_is_refused_where_the_device_has_none(make: Callable[[], object]) -> None:
    with (
        ArcLimits(),
        pytest.raises(AthenaError, match=r"(float64|complex128) \(shape .* B\) on the device at ") as error,
    ):
        make()
    assert "\n" not in str(error.value)
    assert "cast on the host" in str(error.value)
    assert "test_arc_limits.py:" in str(error.value)


def test_float64_is_taken_where_the_device_has_it() -> None:
    with ArcLimits(ARCHITECTURES["battlemage"]):
        assert on_device(2).double().dtype == WIDE


def test_what_stays_on_the_host_is_its_own() -> None:
    with ArcLimits(DeviceCaps(fp64=False, max_alloc=8)) as limits:
        scores = torch.as_tensor(np.arange(100.0))
        scores.cumsum(0, dtype=WIDE).add_(1)
        assert not limits.ops
        device = on_device(2)
        assert device.cpu().double().dtype == WIDE
        assert device.to("cpu", WIDE).dtype == WIDE
        assert torch.as_tensor(np.ones(2)).to(DEVICE, torch.float32).tolist() == [1, 1]
        assert (device * torch.tensor(0.5, dtype=WIDE)).dtype == torch.float32  # a host's scalar
        assert (device * np.float64(2)).tolist() == [2, 2]


def _largest_gradient() -> Tensor:
    return _Outer.apply(on_device(2**15, 1).requires_grad_())


class _Outer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, rows: Tensor) -> Tensor:
        return rows.sum()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad.expand(2**15, 2**15).clone()[:, :1]


LARGE: dict[str, Callable[[], object]] = {
    "factory": lambda: torch.empty(GIB, device=DEVICE),
    "bytes": lambda: torch.zeros(4 * GIB, dtype=torch.uint8, device=DEVICE),
    "copied view": lambda: on_device(2**16, 1).expand(2**16, 2**16).clone(),
    "product": lambda: on_device(2**16, 1) * on_device(1, 2**16),
    "matrix product": lambda: on_device(2**15, 1) @ on_device(1, 2**15),
    "cat": lambda: torch.cat([on_device(1, 1).expand(2**15, 2**15)] * 2),
    "grown in place": lambda: on_device(1).resize_(GIB),
    "backward": lambda: _largest_gradient().backward(),
    "list op": lambda: torch._foreach_add([on_device(2), on_device(1, 1).expand(2**15, 2**15)], 1),
}


@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE)
def test_a_storage_over_the_limit_is_refused_before_memory_is_taken(make: Callable[[], object]) -> None:
    with (
        ArcLimits(),
        pytest.raises(AthenaError, match="allocates 4,294,967,295 B at most; split it") as error,
    ):
        make()
    assert "\n" not in str(error.value)


def test_the_limit_itself_fits_and_views_take_nothing() -> None:
    with ArcLimits(DeviceCaps(max_alloc=32)):
        eight = torch.arange(8.0, device=DEVICE)
        assert eight[:, None].expand(8, 100).shape == (8, 100)
        assert eight.view(2, 4).T[1:].sum().item() == 1 + 5 + 2 + 6 + 3 + 7
        eight.add_(1).clamp_(max=3)
        torch.mul(eight, 2, out=eight)
        with pytest.raises(AthenaError, match="36 B"):
            torch.arange(9.0, device=DEVICE)


def test_shapes_alone_are_checked_too() -> None:
    """A model made outside on `meta` holds no numbers, and may be larger than this machine."""
    with torch.device("meta"):
        head = nn.Linear(64, 128_000, bias=False)
    hidden = torch.empty(8, 2048, 64, device="meta")
    with ArcLimits() as limits:
        assert head(hidden[:, :256]).shape == (8, 256, 128_000)
        with pytest.raises(AthenaError, match=r"shape \(16384, 128000\), 8,388,608,000 B"):
            head(hidden)
        with pytest.raises(RuntimeError, match="meta"):
            head(hidden[:1, :1]).sum().item()
    assert limits.ops


@pytest.mark.parametrize("draw", [nn.init.trunc_normal_, nn.init.orthogonal_])
def test_weights_are_drawn_on_the_device_as_on_the_host(draw: Callable[[Tensor], Tensor]) -> None:
    """torch's initialisers leave tensors of the meta device as they are."""
    torch.manual_seed(0)
    expected = draw(torch.empty(4, 3))
    torch.manual_seed(0)
    with ArcLimits() as limits:
        found = draw(torch.empty(4, 3, device=limits.device)).cpu()
    torch.testing.assert_close(found, expected)
    assert torch.empty(1, device="meta").is_meta


def test_float16_is_refused_where_it_lacks() -> None:
    caps = copy.copy(ARCHITECTURES["alchemist"])
    object.__setattr__(caps, "fp16", False)
    with ArcLimits(caps):
        assert on_device(2).bfloat16().dtype == torch.bfloat16
        with pytest.raises(AthenaError, match="no float16"):
            on_device(2).half()


MIXED: dict[str, Callable[[], object]] = {
    "sum": lambda: on_device(3) + torch.ones(3),
    "product": lambda: on_device(3, 3) @ torch.ones(3, 3),
    "mask": lambda: on_device(3).masked_fill(torch.ones(3, dtype=torch.bool), 0),
    "in place": lambda: torch.zeros(()).add_(on_device(1)[0]),
    "embedding": lambda: F.embedding(torch.tensor([0]), on_device(3, 2)),
    "layer": lambda: nn.Linear(3, 3)(on_device(2, 3)),
}


@pytest.mark.parametrize("make", MIXED.values(), ids=MIXED)
def test_tensors_of_both_sides_are_refused(make: Callable[[], object]) -> None:
    with ArcLimits(), pytest.raises(AthenaError, match="mixes tensors of the device with one of the host"):
        make()


def test_indices_and_scalars_of_the_host_are_taken() -> None:
    with ArcLimits():
        x = torch.arange(4.0).to(DEVICE)
        assert (
            x[torch.tensor([2, 0])].tolist() == x[[2, 0]].tolist() == x[np.array([2, 0])].tolist() == [2, 0]
        )
        assert x[None, [0, 3]].tolist() == [[0, 3]]
        x[torch.tensor([1])] = torch.tensor(9.0)
        assert (torch.tensor(2) * x).tolist() == [0, 18, 4, 6]
        x.copy_(torch.zeros(4))
        assert x.sum().item() == 0


SYNCS: dict[str, tuple[Callable[[Tensor], object], int]] = {
    "item": (lambda x: x.sum().item(), 1),
    "bool": (lambda x: bool(x[0] > 0), 1),
    "float": (lambda x: float(x[0]), 1),
    "nonzero": (lambda x: x.nonzero(), 1),
    "mask": (lambda x: x[x > 0], 1),
    "masked_select": (lambda x: x.masked_select(x > 0), 1),
    "unique": (lambda x: x.unique(), 1),
    "cpu": (lambda x: x.cpu(), 1),
    "copied": (lambda x: torch.empty(3).copy_(x), 1),
    "tolist": (lambda x: x.tolist(), 1),
    "equal": (lambda x: torch.equal(x, x.clone()), 1),
    "arithmetic": (lambda x: (x * 2).where(x > 1, 0).sum(), 0),
    "index": (lambda x: x[torch.tensor([0], device=DEVICE)], 0),
    "to the device": (lambda x: x + torch.ones(3).to(DEVICE), 0),
}


@pytest.mark.parametrize(("use", "count"), SYNCS.values(), ids=SYNCS)
def test_waits_of_the_host_are_counted_with_their_lines(use: Callable[[Tensor], object], count: int) -> None:
    with ArcLimits() as limits:
        use(torch.arange(3.0).to(DEVICE))
    assert limits.syncs.total() == count
    assert all(" at test_arc_limits.py:" in place for place in limits.syncs)


def train(device: torch.device | str) -> list[Tensor]:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 4))
    model = nn.ModuleList([body, nn.Linear(4, 4)])
    tied = nn.Linear(4, 4)
    tied.weight = model[1].weight
    model.append(tied)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)  # made before the move, as is allowed
    model.to(device)
    assert model[1].weight is model[2].weight
    x = torch.randn(6, 4, device=device)
    for _ in range(5):
        optimizer.zero_grad()
        F.mse_loss(model[2](model[1](model[0](x))), x).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return [*model.state_dict().values()]


def test_numbers_are_the_hosts_to_the_bit() -> None:
    expected = train("cpu")
    with ArcLimits() as limits:
        found = train(DEVICE)
        assert not limits.syncs
        for ours, other in zip(found, expected, strict=True):
            assert torch.equal(ours.cpu(), other)


def test_transforms_copies_and_odd_shapes() -> None:
    x = torch.randn(3, 5, 2)
    with ArcLimits():
        there = x.to(DEVICE)
        grad = torch.func.vmap(torch.func.grad(lambda row: row.mT.square().sum()))(there)
        assert torch.equal(grad.cpu(), 2 * x)
        assert torch.equal(copy.deepcopy(there).mT.contiguous().cpu(), x.mT.contiguous())
        assert there[:0].sum().item() == 0
        assert torch.zeros((), device=DEVICE).add(1).item() == 1
        assert there.new_tensor([3]).dtype == torch.float32
        assert torch.equal(torch.stack(there.unbind(2)).cpu(), torch.stack(x.unbind(2)))
        assert torch.equal(there.transpose_(0, 2).cpu(), x.transpose(0, 2))
        assert there.mul(float("nan")).isnan().all().item()


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, in forward mode
def test_conjugated_negated_and_zero_views() -> None:
    """Views whose numbers are not those of their memory, and forward mode's zeros, which have none."""
    x = torch.randn(3, dtype=torch.complex64)
    with ArcLimits():
        there = x.to(DEVICE)
        assert torch.equal((2 * there.conj()).imag.cpu(), (2 * x.conj()).imag)
        assert torch.equal(there.conj().imag.clone().cpu(), x.conj().imag.clone())
        assert there.conj().is_conj()
        assert torch.equal(there.conj().conj().resolve_conj().cpu(), x)
        hessian = torch.func.hessian(lambda row: (row**3).sum())(torch.ones(3, device=DEVICE))
        assert torch.equal(hessian.cpu(), 6 * torch.eye(3))


def test_sequences_of_several_lengths() -> None:
    """What torch wants on the host stays there."""
    lstm, x = nn.LSTM(4, 6, batch_first=True), torch.randn(3, 5, 4)

    def run(x: Tensor) -> float:
        packed = nn.utils.rnn.pack_padded_sequence(x, [5, 4, 2], batch_first=True)
        output = nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True)[0]
        output.sum().backward()
        return output.sum().item()

    expected = run(x)
    with ArcLimits():
        lstm.to(DEVICE)
        assert run(x.to(DEVICE)) == expected


def test_sparse_gradients_are_refused() -> None:
    with (
        ArcLimits(),
        pytest.raises(AthenaError, match=r"sparse_coo on the device .*; ArcLimits follows strided"),
    ):
        nn.Embedding(5, 3, sparse=True).to(DEVICE)(torch.arange(4, device=DEVICE)).sum().backward()


def test_one_at_a_time() -> None:
    with ArcLimits() as limits:
        for inner in (limits, ArcLimits()):
            with pytest.raises(AthenaError, match="another one is active here"), inner:
                pass
        assert on_device(2).sum().item() == 2
    with limits:  # and again
        assert on_device(2).sum().item() == 2


def test_a_check_of_nothing_fails() -> None:
    with pytest.raises(AthenaError, match="nothing ran on the device"), ArcLimits():
        torch.ones(3) + 1


def test_another_error_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), ArcLimits():
        raise ZeroDivisionError


def test_modules_are_as_before_afterwards() -> None:
    before = torch.__future__.get_swap_module_params_on_conversion()
    with ArcLimits():
        nn.Linear(1, 1).to(DEVICE)
    assert torch.__future__.get_swap_module_params_on_conversion() is before
