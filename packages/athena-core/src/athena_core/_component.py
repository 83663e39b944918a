"""What a plugin offers: components of named kinds, and kernels for ops. Plain data, no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def _check(owner: str, parameter: str, value: str, pattern: re.Pattern[str], example: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{owner}: `{parameter}` must look like {example!r}; got {value!r}.")


@dataclass(frozen=True)
class Component:
    """One thing a plugin offers, found by kind and name and imported on first use.

    Args:
        kind: the interface it has, such as ``"optimizer"``.
        name: lower case, words joined by ``-``.
        target: ``"module:attribute"``.
        summary: one line.
        paper: where the method comes from, such as ``"arXiv:1904.00962"``.
        requires: PEP 508 requirements, tested before the target is imported.

    Raises ValueError if a name or target is malformed.

    >>> Component("optimizer", "lamb", "athena_optim:Lamb", "Layer-wise adaptive moments").name
    'lamb'
    """

    kind: str
    name: str
    target: str
    summary: str
    paper: str = ""
    requires: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        owner = f"component {self.kind}/{self.name}"
        _check(owner, "kind", self.kind, _NAME, "optimizer")
        _check(owner, "name", self.name, _NAME, "warmup-cosine")
        _check(owner, "target", self.target, _TARGET, "package.module:attribute")
        if not self.summary or "\n" in self.summary:
            raise ValueError(f"{owner}: `summary` must be one line; got {self.summary!r}.")
        if isinstance(self.requires, str):
            raise ValueError(f"{owner}: `requires` must be a tuple of requirements; got {self.requires!r}.")


@dataclass(frozen=True)
class Kind:
    """A named interface, declared by the plugin that owns it.

    Args:
        name: lower case, words joined by ``-``.
        interface: ``"module:attribute"`` of the base class or Protocol that components satisfy.
        summary: one line.
        example: ``"module:function"``; called with a component's loaded target, it returns one
            built on the CPU. The conformance kit builds every component of the kind with it.
        checks: ``"module:function"``; called with a component and its loaded target, it yields the
            conformance checks (`athena_core.testing.Check`) that this kind adds.
        plot: ``"module:function"``; called with a loaded target, it returns a matplotlib figure
            (``athena info KIND/NAME --plot``).

    Raises ValueError if a name or target is malformed.

    >>> Kind("loss", "my_package:Loss", "What training makes small").interface
    'my_package:Loss'
    """

    name: str
    interface: str
    summary: str
    example: str = ""
    checks: str = ""
    plot: str = ""

    def __post_init__(self) -> None:
        owner = f"kind {self.name}"
        _check(owner, "name", self.name, _NAME, "optimizer")
        _check(owner, "interface", self.interface, _TARGET, "package.module:attribute")
        for parameter in ("example", "checks", "plot"):
            if value := getattr(self, parameter):
                _check(owner, parameter, value, _TARGET, "package.module:function")


@dataclass(frozen=True)
class Kernel:
    """A faster body of an op for one device type.

    Args:
        op: the op's qualified name, such as ``"athena_nn::rms_norm"``.
        device: the device type it is for, such as ``"xpu"``.
        target: ``"module:function"`` with the op's parameters and defaults.
        supports: the same, but returning whether the kernel takes these arguments; where it does not,
            the op's reference runs. It is also asked about fake tensors, which have no data. Empty:
            every input is supported.
        autograd: ``"module:class"`` with the formula of its gradient: static ``setup_context(ctx,
            inputs, output)`` and ``backward(ctx, *grads)``, as `torch.library.register_autograd` takes
            them, over all parameters of the op. With ``forward(ctx, *inputs)`` in place of
            ``setup_context`` it makes the output itself where a gradient is wanted, and saves what the
            target would throw away. Under ``torch.compile`` both are traced, so they may call ops, but
            no foreign code. Empty only for an op without a gradient, ``differentiable=False``, or one
            that changes its arguments: where a gradient is wanted, the reference of such an op runs.
        compiled: False keeps the reference under ``torch.compile``.
        tolerance: largest error against the float64 reference, relative to its largest value or 1, by
            dtype name, where it differs from `athena_core.testing`'s own.

    Raises ValueError if a name or target is malformed.

    >>> Kernel("my_package::halve", "cuda", "my_package:halve_cuda", autograd="my_package:Halve").device
    'cuda'
    """

    op: str
    device: str
    target: str
    supports: str = ""
    autograd: str = ""
    compiled: bool = True
    tolerance: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        owner = f"kernel {self.op} on {self.device}"
        _check(owner, "op", self.op, re.compile(r"\w+::\w+"), "athena_nn::rms_norm")
        _check(owner, "device", self.device, re.compile(r"[a-z][a-z0-9]*"), "xpu")
        _check(owner, "target", self.target, _TARGET, "package.module:function")
        for parameter in ("supports", "autograd"):
            if value := getattr(self, parameter):
                _check(owner, parameter, value, _TARGET, "package.module:function")


def components_of(
    tables: Mapping[str, Iterable[tuple[str, str, str, str]]],
    requires: Mapping[str, tuple[str, ...]] | None = None,
) -> list[Component]:
    """The components of tables: by kind, rows of name, target, summary and paper.

    Args:
        tables: of a plugin.
        requires: by kind, what its components require; by ``"kind/name"``, what one does instead.

    >>> components_of({"loss": [("mse", "my_package:MSE", "Squared errors", "")]})[0].target
    'my_package:MSE'
    """
    needs = requires or {}
    return [
        Component(kind, name, target, summary, paper, needs.get(f"{kind}/{name}", needs.get(kind, ())))
        for kind, rows in tables.items()
        for name, target, summary, paper in rows
    ]


def kinds_of(package: str, rows: Iterable[tuple[str, str, str]]) -> list[Kind]:
    """The kinds of a table of names, interfaces and summaries, each with its laws in a module of its own.

    The laws of ``my-kind`` are ``package._my_kind_laws``, with ``example_my_kind`` and ``my_kind_checks``.

    >>> kinds_of("my_package", [("my-kind", "my_package:MyKind", "What it is")])[0].checks
    'my_package._my_kind_laws:my_kind_checks'
    """
    kinds = []
    for name, interface, summary in rows:
        noun = name.replace("-", "_")
        laws = f"{package}._{noun}_laws"
        kinds.append(Kind(name, interface, summary, f"{laws}:example_{noun}", f"{laws}:{noun}_checks"))
    return kinds
