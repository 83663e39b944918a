"""Parts by name: this package's own at once, any other through the registry."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from athena_core import AthenaError, components, create
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

    Raises AthenaError for a name that nobody offers, and TypeError for anything that makes no norms, a
    built one included: each place has one of its own.

    >>> build_norm("rms", 4)
    RMSNorm(4, eps=1e-06)
    >>> build_norm(nn.RMSNorm, 4)
    RMSNorm((4,), eps=None, elementwise_affine=True)
    """
    if isinstance(norm, str):
        return _named("norm", norm, width)
    if isinstance(norm, nn.Module) or not callable(norm):
        raise TypeError(
            f"A norm must be given by name, or as a callable from width to module such as a class; "
            f"got {type(norm).__name__}, {'a built module' if isinstance(norm, nn.Module) else 'neither'}."
        )
    return norm(width)


def build_activation(activation: ActivationSpec) -> nn.Module:
    """The activation of this name, the module itself, or what the callable makes.

    Raises AthenaError for a name that nobody offers.

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
        _refuse_unknown(kind, name)
        return create(kind, name, *arguments)
    module, _, attribute = own.partition(":")
    return getattr(import_module(module), attribute)(*arguments)


def _refuse_unknown(kind: str, name: str) -> None:
    """Raises AthenaError if no plugin is loaded that offers the kind: then this package's own are all."""
    try:
        components(kind)
    except AthenaError as error:
        names = ", ".join(own for one, own in _OWN if one == kind)
        raise AthenaError(
            f"unknown {kind} `{name}`. Allowed: {names}; no plugin that offers others is loaded, "
            "see `athena plugins`."
        ) from error
