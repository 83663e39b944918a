"""What a training step keeps for its gradients, measured from shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from athena_core._errors import AthenaError


class _Step(nn.Module):
    """A step as a module, so that its model's tensors can be replaced by those of the meta device."""

    def __init__(self, model: nn.Module, step: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model, self.step = model, step

    def forward(self) -> Any:
        return self.step(self.model)


def kept_bytes(model: nn.Module, step: Callable[[Any], Any]) -> dict[str, int]:
    """Bytes kept, by the name of the submodule with tensors that was called last before; no data is touched.

    Saved tensors are counted once a storage, parameters and buffers not at all. What a checkpoint of
    activations keeps for its second pass is not seen.

    Raises AthenaError where the step does not run on the meta device.

    >>> kept_bytes(nn.Sequential(nn.Linear(3, 5), nn.Tanh()), lambda model: model(torch.ones(4, 3)))
    {'0': 128}
    """
    owners = {name: module for name, module in model.named_modules() if module._parameters or module._buffers}
    called, kept, seen = next(iter(owners), ""), dict.fromkeys(owners, 0), {}
    state = {
        f"model.{name}": torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    own = {tensor.untyped_storage()._cdata for tensor in state.values()}

    def enter(name: str, *_: Any) -> None:
        nonlocal called
        called = name

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and storage._cdata not in seen:
            seen[storage._cdata] = storage  # alive, so that no other gets its number
            kept[called] = kept.get(called, 0) + storage.nbytes()
        return tensor

    with ExitStack() as stack:
        for name, module in owners.items():
            stack.enter_context(module.register_forward_pre_hook(partial(enter, name)))
        stack.enter_context(torch.device("meta"))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        try:
            functional_call(_Step(model, step), state, ())
        except Exception as error:
            raise AthenaError(
                f"`step` must run on the meta device, on shapes alone; got {type(error).__name__}:"
                f" {str(error).partition(chr(10))[0]}. Make its tensors inside, or pass `rows` instead."
            ) from error
    return kept
