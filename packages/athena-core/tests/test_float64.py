"""`as_float64` stays on the device where that has the type."""

from __future__ import annotations

import pytest
import torch

import athena_core._float64 as module
from athena_core import AthenaError, DeviceCaps, as_float64, to_device


class Card:
    def __init__(self, fp64: bool) -> None:
        self.fp64 = fp64

    def caps(self, index: int) -> DeviceCaps:
        assert index == 0
        return DeviceCaps(fp64=self.fp64)


@pytest.fixture(autouse=True)
def _forget() -> None:
    module._asked.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_the_cpu_has_it(dtype: torch.dtype) -> None:
    value = torch.arange(3).to(dtype)
    found = as_float64(value)
    assert found.dtype == torch.float64
    assert found.device == value.device
    assert torch.equal(found, value.double())


def test_float64_stays_as_it_is() -> None:
    value = torch.ones(2, dtype=torch.float64)
    assert as_float64(value) is value


def test_a_device_with_it_keeps_the_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "backend", lambda _: Card(fp64=True))
    assert as_float64(torch.ones(2, device="meta")).device.type == "meta"


@pytest.mark.parametrize("known", [True, False])
def test_a_device_without_it_gives_the_tensor_to_the_host(
    monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    def backend(_: torch.device) -> Card:
        if not known:
            raise AthenaError("no backend")
        return Card(fp64=False)

    monkeypatch.setattr(module, "backend", backend)
    with pytest.raises(NotImplementedError, match="no data"):  # what torch says of a copy to the CPU
        as_float64(torch.ones(2, device="meta"))


@pytest.mark.parametrize(
    ("dtype", "there"),
    [
        (torch.float64, torch.float32),
        (torch.complex128, torch.complex64),
        (torch.int64, torch.int64),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_only_what_a_device_lacks_is_cast_on_the_way(dtype: torch.dtype, there: torch.dtype) -> None:
    value = torch.ones(2, dtype=dtype)
    assert to_device(value, "cpu") is value
    assert to_device(value, "meta").dtype == there


def test_a_device_with_float64_is_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "backend", lambda _: Card(fp64=True))
    assert to_device(torch.ones(2, dtype=torch.float64), "meta").dtype == torch.float64
