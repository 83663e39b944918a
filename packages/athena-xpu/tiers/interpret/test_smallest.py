"""The kernel of smallest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from drawn import KERNELS, draw_int, draw_rows, draw_width
from torch import Tensor

from athena_compress._smallest import smallest
from athena_core.testing import check_drawn
from athena_core.testing._kernels import offered
from athena_xpu.kernels import _smallest as kernel

KERNEL = KERNELS["athena_compress::smallest"]


def draw(dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, int]:
    """Continuous, or of few values with zeros of both signs, infinities and NaN."""
    shape = (*draw_rows(generator), draw_width(generator))
    scores = (10.0 ** draw_int(-7, 4, generator) * torch.randn(shape, generator=generator)).to(dtype)
    if draw_int(0, 1, generator):
        values = torch.tensor([-torch.inf, -1.5, -0.0, 0.0, 2.0, torch.inf, torch.nan], dtype=dtype)
        most = draw_int(2, 6, generator)
        scores = values[torch.randint(1, most + 1, shape, generator=generator)]
        scores[torch.rand(shape, generator=generator) < 0.1] = -torch.inf
    count = (0, min(1, scores.numel()), scores.numel(), draw_int(0, scores.numel(), generator))[
        draw_int(0, 3, generator)
    ]
    return scores, count


def by_sorting(scores: Tensor, count: int) -> Tensor:
    """Independent of the reference, for scores without NaN: -0 and 0 tie when sorted."""
    order = scores.flatten().double().add(0.0).sort(stable=True).indices[:count]
    return torch.zeros(scores.numel(), dtype=torch.bool).index_fill_(0, order, True)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As all that a program takes costs time, also where it is masked."""
    monkeypatch.setattr(kernel, "_BLOCK", 64)
    monkeypatch.setattr(kernel, "_PROGRAMS", 8)


def test_drawn() -> None:
    check_drawn(KERNEL, draw)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("programs", [2, 16])
def test_larger_than_a_block(dtype: torch.dtype, programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stable sort; ties are cut within a block, between blocks and between programs."""
    monkeypatch.setattr(kernel, "_PROGRAMS", programs)
    scores = torch.randn(500)
    for values in (scores, scores.round()):
        for count in (1, 64, 250, 500):
            drawn = values.to(dtype)
            assert torch.equal(kernel.run(drawn, count), by_sorting(drawn, count))


def test_blocks_as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    scores = torch.randn(3 * 2048 + 1).round(decimals=1)
    assert torch.equal(kernel.run(scores, 2500), by_sorting(scores, 2500))


def test_every_bit_of_the_scores_counts() -> None:
    """Neighbouring numbers, subnormal ones among them, of both signs."""
    for dtype, whole in (
        (torch.float32, torch.int32),
        (torch.float16, torch.int16),
        (torch.bfloat16, torch.int16),
    ):
        bits = torch.arange(0, 20, dtype=whole)
        near_one = torch.ones((), dtype=dtype).view(whole) + bits
        scores = torch.cat([bits.view(dtype), -bits.view(dtype), near_one.view(dtype), -near_one.view(dtype)])
        scores = scores[torch.randperm(len(scores))]
        for count in range(1, len(scores), 13):
            assert torch.equal(kernel.run(scores, count), by_sorting(scores, count))


def test_zeros_of_both_signs_are_equal() -> None:
    scores = torch.tensor([0.0, -0.0, 0.0, -0.0, 1.0])
    assert kernel.run(scores, 3).tolist() == [True, True, True, False, False]


def test_of_fewer_numbers_than_asked_for_none_is_found() -> None:
    scores = torch.tensor([1.0, torch.nan, -torch.nan, torch.inf])
    assert kernel.run(scores, 2).tolist() == [True, False, False, True]
    assert kernel.run(scores, 3).tolist() == smallest(scores, 3).tolist() == [False] * 4


def test_the_same_mask_in_every_run() -> None:
    scores = torch.randn(500).round(decimals=1)
    with offered(KERNEL):
        first, second = smallest(scores, 123), smallest(scores, 123)
    assert torch.equal(first, second)
    assert first.sum() == 123


@pytest.mark.parametrize(
    ("scores", "count"),
    [(torch.ones(3), 0), (torch.ones(3), -1), (torch.ones(3), 4), (torch.ones(3, dtype=torch.float64), 1)],
)
def test_what_the_reference_keeps(scores: Tensor, count: int) -> None:
    assert not kernel.supports(scores, count)


def test_no_host_sync() -> None:
    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        names: set[str] = set()  # noqa: RUF012

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.add(func.name())
            return func(*args, **(kwargs or {}))

    with Seen() as seen:
        kernel.run(torch.randn(100), 7)
    assert not {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"} & seen.names
