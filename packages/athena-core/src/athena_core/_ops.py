"""Ops: named functions of tensors with one plain reference, for which plugins offer faster bodies."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import update_wrapper
from typing import Any, ParamSpec, TypeVar

import torch
from torch.compiler import is_compiling

from athena_core._compile_cache import tag_compile_cache
from athena_core._kernels import OPS, Op, claims, device_type, forget, install, parameters

P = ParamSpec("P")
R = TypeVar("R")


def op(
    schema: str,
    *,
    reference: Callable[P, R],
    samples: Callable[[str, torch.dtype, torch.Generator], Iterable[tuple[Any, ...]]] | None = None,
    differentiable: bool = True,
) -> Callable[P, R]:
    """Define an op of PyTorch's dispatcher, and return the function that calls it.

    The reference runs wherever no plugin offers a kernel: on every device, differentiable, under
    ``torch.func``, ``torch.compile`` and fake tensors. The first call on a device type for which one
    does installs it (see `athena_core.Kernel`). An op's result depends on its arguments alone.

    Args:
        schema: as `torch.library` writes it, ``"namespace::name(Tensor x, float p=2.0) -> Tensor"``.
            ``Tensor(a!) x`` says that ``x`` is changed in place.
        reference: the op in plain torch, with the schema's parameters, names and defaults.
        samples: from a device type, a dtype and a generator, argument tuples that
            `athena_core.testing.kernel_checks` tries on every kernel: odd and empty sizes among them.
            The generator is the host's: draw there, then ``.to(device, dtype)``.
        differentiable: False for results that never carry a gradient, such as masks; kernels then
            need no formula.

    Raises ValueError if the schema and the reference disagree, if a result aliases an argument, or if
    another module has defined the op. The same module may define it again, as when it is reloaded.

    >>> import torch
    >>> halve = op("athena_doc::halve(Tensor x) -> Tensor", reference=lambda x: x / 2)
    >>> halve(torch.tensor([2.0, 4.0]))
    tensor([1., 2.])
    """
    record = _define(schema, reference)
    record.reference, record.samples, record.differentiable = reference, samples, differentiable
    overload = record.overload

    def call(*args: Any, **kwargs: Any) -> Any:
        # A compiler's graph holds the op itself: whether it decomposes is settled while it is lowered,
        # when plugins can be imported. Elsewhere the dispatcher would cost more than many a reference.
        if is_compiling():
            return overload(*args, **kwargs)
        claimed = record.claims
        if claimed is None:
            claimed = claims(record)
        if claimed and device_type((*args, *kwargs.values()) if kwargs else args) in claimed:
            return overload(*args, **kwargs)
        return reference(*args, **kwargs)

    update_wrapper(call, reference)
    call.__name__ = call.__qualname__ = record.name.partition("::")[2]  # so that it pickles by that name
    return call


def _define(schema: str, reference: Callable[..., Any]) -> Op:
    parsed = torch._C.parse_schema(schema)
    _compare(parsed, reference)
    origin = reference.__module__
    known = OPS.get(parsed.name)
    if known is not None:
        if (known.schema, known.origin) != (schema, origin):
            raise ValueError(
                f"op `{parsed.name}`: `{known.origin}` has defined it as {known.schema!r}; "
                f"got {schema!r} from `{origin}`. Choose another name, or restart Python."
            )
        forget(known)
        return known
    kinds = [str(one.type) for one in parsed.arguments]
    namespace, _, name = parsed.name.partition("::")
    library = torch.library.Library(namespace, "FRAGMENT")
    library.define(schema.partition("::")[2])
    record = Op(
        name=parsed.name,
        schema=schema,
        origin=origin,
        library=library,
        overload=getattr(getattr(torch.ops, namespace), name).default,
        reference=reference,
        names=tuple(name for name, _ in parameters(reference)),
        defaults=tuple(default for _, default in parameters(reference)),
        mutated=tuple(i for i, one in enumerate(parsed.arguments) if one.alias_info is not None),
        is_tensor=tuple(kind in ("Tensor", "Optional[Tensor]") for kind in kinds),
        has_lists=any("List[" in kind and "Tensor]" in kind for kind in kinds),
    )

    def composite(*args: Any) -> Any:
        """Run where the dispatcher knows no kernel: install one if a plugin claims this device."""
        device = device_type(args)
        if device is not None and install(record, device):
            return record.overload(*args)
        return record.reference(*args)

    library.impl(name, composite, "CompositeImplicitAutograd")
    library.impl(name, lambda *args: record.reference(*args), "FuncTorchBatched")
    OPS[record.name] = record
    tag_compile_cache(reference)
    return record


def _compare(schema: Any, reference: Callable[..., Any]) -> None:
    declared = tuple(
        (one.name, one.default_value if one.has_default_value() else inspect.Parameter.empty)
        for one in schema.arguments
    )
    if declared != parameters(reference):
        raise ValueError(
            f"op `{schema.name}`: `reference` must have the schema's parameters and defaults, "
            f"in order; the schema has {declared}, the reference {parameters(reference)}."
        )
    if any(one.kwarg_only for one in schema.arguments):
        raise ValueError(f"op `{schema.name}`: keyword-only parameters are not supported; drop the `*`.")
    if any(one.alias_info is not None for one in schema.returns):
        raise ValueError(f"op `{schema.name}`: a result must not alias an argument; return `()`.")
