"""Intel GPUs as a device of Athena, on torch's own `torch.xpu` and `torch.accelerator`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar, final

import torch
import torch.distributed as dist
from torch import Tensor

from athena_core import AthenaError, DeviceBackend
from athena_xpu import _diagnosis, _host_gpus
from athena_xpu._caps import XPUCaps, caps_of, is_underreported
from athena_xpu._scaler import GradScaler
from athena_xpu._variables import MASK, SELECTOR, began_with, relaxed_limits, variable_problems

_DOUBLE = {torch.float64: torch.float32, torch.complex128: torch.complex64}


@final
class XPU(DeviceBackend):
    """Intel GPUs; each is what `XPUCaps` says, and an index means what torch means by it.

    A torch that sees a discrete GPU may leave integrated ones out, so indices change with torch's version.

    >>> from athena_xpu import XPU
    >>> XPU().type
    'xpu'
    """

    type: ClassVar[str] = "xpu"

    def count(self) -> int:
        return self._counted()[0]

    def caps(self, index: int = 0) -> XPUCaps:
        """What device ``index`` can do.

        Raises AthenaError where there is no such device, or after a fork.
        """
        return caps_of(self._properties(index), relaxed=relaxed_limits())

    def device(self, index: int | None = None) -> torch.device:
        self._check(index or 0)
        return super().device(index)

    def move(self, tensor: Tensor, dtype: torch.dtype, index: int | None = None) -> Tensor:
        """``tensor`` as ``dtype`` on device ``index``; cast on the host, since the device may lack its dtype.

        Raises AthenaError for a dtype that the device lacks.
        """
        target = self.device(index)
        if dtype in _DOUBLE and not self.caps(target.index).fp64:
            raise AthenaError(
                f"`dtype` must be one that {target} holds; got {dtype}, and it has no float64."
                f" Pass {_DOUBLE[dtype]}, as `athena_core.place` does unless told `cast=False`."
            )
        return super().move(tensor, dtype, index)

    def autocast(self, dtype: torch.dtype | None = torch.bfloat16) -> AbstractContextManager[Any]:
        """Mixed precision, bfloat16 by default, which needs no gradient scaler; None switches it off."""
        return super().autocast(dtype)

    def make_scaler(self, dtype: torch.dtype = torch.float16) -> torch.amp.GradScaler:
        """torch's gradient scaler, or `GradScaler` where a device lacks the float64 that torch's needs."""
        if all(self.caps(index).fp64 for index in range(self.count())):
            return super().make_scaler(dtype)
        return GradScaler(self.type, enabled=dtype is torch.float16)

    def dist_backend(self) -> str:
        """xccl for the GPUs, and gloo for host tensors, which knows no GPU (torch-xpu-ops#2113).

        Raises AthenaError if torch was built without xccl.
        """
        if not getattr(dist, "is_xccl_available", lambda: False)():
            raise AthenaError(
                f"xpu: this torch ({torch.__version__}) was built without xccl: {_diagnosis.INSTALL}"
            )
        return "cpu:gloo,xpu:xccl"

    def diagnose(self) -> list[str]:
        have, gpus, (count, failure) = _diagnosis.installed(), _host_gpus.host_gpus(), self._counted()
        variables = list(
            variable_problems(
                os.environ,
                began=began_with(),
                gpus=len(gpus) if _host_gpus.looks_for_gpus() else None,
                wanted=count > 0 or os.environ.get("ATHENA_DEVICE", "").startswith("xpu"),
            )
        )
        problems = [*_diagnosis.build_problems(have, gpus), *variables]
        if have.built and not count:
            hides = any(line.startswith((SELECTOR, MASK)) for line in variables)
            problems += _diagnosis.driver_problems(gpus, hidden=hides, failure=failure)
        return [*problems, *self._underreported()]

    def notes(self) -> list[str]:
        if not self.count():
            have, gpus = _diagnosis.installed(), _host_gpus.host_gpus()
            return _diagnosis.absence_notes(have, gpus, looked=_host_gpus.looks_for_gpus())
        return [*_diagnosis.cache_notes(), *self._integrated_first()]

    def _counted(self) -> tuple[int, str]:
        """How many there are, and how counting them failed."""
        try:
            return torch.xpu.device_count(), ""
        except RuntimeError as error:  # a driver that cannot be loaded, a selector that cannot be read
            return 0, (str(error).splitlines() or [""])[0]

    def _properties(self, index: int) -> Any:
        self._check(index)
        return torch.xpu.get_device_properties(index)

    def _check(self, index: int) -> None:
        """Raise AthenaError where there is no such device, or in a process that may not use it."""
        self._check_process()
        count = self.count()
        if not count:
            raise AthenaError(
                f"xpu: no device can be used here; {'; '.join([*self.notes(), *self.diagnose()])}"
            )
        if not 0 <= index < count:
            raise AthenaError(
                f"`index` must lie in [0, {count}), as torch sees {count} xpu devices; got {index}."
                " See `athena doctor`."
            )

    def _check_process(self) -> None:
        """Raise AthenaError in a process that was forked from one that had begun to use the GPU."""
        if torch.xpu._is_in_bad_fork():
            raise AthenaError(
                "xpu: this process was forked from one that uses the GPU, which the driver does not survive."
                " Start it with multiprocessing.get_context('spawn'), or"
                " DataLoader(multiprocessing_context='spawn')."
            )

    def _underreported(self) -> Iterator[str]:
        for index in range(self.count()):
            if is_underreported(self._properties(index)):
                yield (
                    f"torch denies xpu:{index} its matrix unit, as it finds no libocloc (pytorch#196074), and"
                    " Triton leaves it unused: sudo apt install intel-ocloc (Ubuntu)"
                )

    def _integrated_first(self) -> Iterator[str]:
        integrated = [self.caps(index).integrated for index in range(self.count())]
        if integrated[0] and not all(integrated):
            yield f"xpu:0 is integrated, xpu:{integrated.index(False)} is not: ask for that by its index"
