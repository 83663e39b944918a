"""Parts by name: this package's own at once, any other through the registry."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from athena_core import create
from athena_nn import _plugin

NormSpec = str | Callable[[int], nn.Module]
ActivationSpec = str | nn.Module | Callable[[], nn.Module]
_OWN = {
    (kind, name): target
    for kind, rows in (("norm", _plugin.NORMS), ("activation", _plugin.ACTIVATIONS))
    for name, target, _, _ in rows
}


def build_norm(norm: NormSpec, width: int) -> nn.Module:
    """The norm of this name for a width, or what the callable makes of it.

    >>> build_norm("rms", 4)
    RMSNorm(4, eps=1e-06)
    >>> build_norm(nn.RMSNorm, 4)
    RMSNorm((4,), eps=None, elementwise_affine=True)
    """
    return _named("norm", norm, width) if isinstance(norm, str) else norm(width)


def build_activation(activation: ActivationSpec) -> nn.Module:
    """The activation of this name, the module itself, or what the callable makes.

    >>> build_activation("relu")
    ReLU()
    >>> build_activation(nn.PReLU)
    PReLU(num_parameters=1)
    """
    if isinstance(activation, str):
        return _named("activation", activation)
    return activation if isinstance(activation, nn.Module) else activation()


def _named(kind: str, name: str, *arguments: Any) -> nn.Module:
    # own names look nothing up, so that a model can be built where plugins are switched off
    own = _OWN.get((kind, name))
    if own is None:
        return create(kind, name, *arguments)
    module, _, attribute = own.partition(":")
    return getattr(import_module(module), attribute)(*arguments)
