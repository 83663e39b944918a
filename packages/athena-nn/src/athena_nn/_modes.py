"""Evaluation mode for a while."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import nn


class evaluating:  # noqa: N801  (a context, in lower case as torch's own)
    """Put a model into evaluation mode without gradients, and each of its modules back afterwards.

    It may be entered again and again, as for each step of a generation: what is slow, walking through the
    modules, is done here, once.

    >>> model = nn.Dropout(0.5)
    >>> with evaluating(model):
    ...     model.training, torch.is_grad_enabled()
    (False, False)
    >>> model.training
    True
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.modules())
        self._trained: list[nn.Module] = []
        self._no_grad = torch.no_grad()

    def __enter__(self) -> None:
        self._trained = [module for module in self._modules if module.training]
        self._set(False)
        self._no_grad.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._no_grad.__exit__(kind, error, trace)
        self._set(True)

    def _set(self, training: bool) -> None:
        # `nn.Module.__setattr__` first looks whether it is given a parameter or a module: 2 us each time
        for module in self._trained:
            object.__setattr__(module, "training", training)
