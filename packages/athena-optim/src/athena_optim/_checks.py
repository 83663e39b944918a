"""Checks of what several optimizers are given: options, parameters, gradients and state dicts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import isfinite
from numbers import Real
from operator import attrgetter
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.optim import Optimizer

_NOT_OF_GROUPS = frozenset({"max_norm", "max_value", "adaptive_clip", "nonfinite", "precision"}) | frozenset(
    {"normalize_gradients", "adamw_lr", "adamw_betas", "adamw_eps", "adamw_weight_decay"}
)
_KIND = attrgetter("layout", "dtype", "device")
#: What a NaN or infinite gradient does to a step.
NonFinite = Literal["raise", "skip", "zero"]


class Grouped(Protocol):
    """What has an optimizer's groups, and the options of a group that says nothing else."""

    defaults: dict[str, Any]
    param_groups: list[dict[str, Any]]


def check_group(group: Mapping[str, Any]) -> None:
    """Raise ValueError unless the common options that ``group`` holds are allowed ones.

    torch checks an optimizer's defaults, but not what a single group says instead.

    >>> check_group({"lr": -1.0})
    Traceback (most recent call last):
    ValueError: `lr` must be finite and at least 0; got -1.0. To climb, pass maximize=True.
    """
    for name in ("lr", "eps", "weight_decay"):
        value = group.get(name, 0.0)
        if not isinstance(value, Real | Tensor):
            raise TypeError(f"`{name}` must be a number; got {value!r}. Convert it, or leave it out.")
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(
                f"`{name}` must have one element; got a tensor of shape {tuple(value.shape)}. "
                "Make a group for each rate."
            )
        if value < 0 or not isfinite(value):
            raise ValueError(
                f"`{name}` must be finite and at least 0; got {value}. To climb, pass maximize=True."
            )
    betas = group.get("betas", (0.0, 0.0))
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise ValueError(f"`betas` must be two numbers; got {betas!r}. Pass a pair such as (0.9, 0.999).")
    for index, beta in enumerate(betas):
        if not isinstance(beta, Real | Tensor):
            raise TypeError(f"`betas[{index}]` must be a number; got {beta!r}. Convert it.")
        if beta < 0 or not beta < 1:
            raise ValueError(
                f"`betas[{index}]` must lie in [0, 1); got {beta}. It is the share of the past that is kept."
            )


def check_flags(options: Mapping[str, Any]) -> None:
    """Raise RuntimeError for implementations that exclude each other, as torch's optimizers do.

    >>> check_flags({"foreach": True, "fused": True})
    Traceback (most recent call last):
    RuntimeError: `fused` and `foreach` cannot be `True` together.
    """
    fused, foreach, differentiable = (options.get(name) for name in ("fused", "foreach", "differentiable"))
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    for name, value in (("fused", fused), ("foreach", foreach)):
        if value and differentiable:
            raise RuntimeError(f"`{name}` does not support `differentiable`; leave it at None.")
    if isinstance(options.get("lr"), Tensor) and foreach and not options.get("capturable"):
        raise ValueError("`lr` as a Tensor is not supported for capturable=False and foreach=True.")


def check_placement(group: Mapping[str, Any]) -> None:
    """Raise ValueError for an option of the optimizer that stands in a group, where it would do nothing."""
    misplaced = sorted(_NOT_OF_GROUPS & group.keys())
    if misplaced:
        raise ValueError(
            f"`{misplaced[0]}` is an option of the optimizer, not of a group; got it in a group. "
            "Pass it to the optimizer, beside `params`."
        )


def check_nonfinite(policy: str | None) -> None:
    """Raise ValueError unless ``policy`` is one of `NonFinite`, or None."""
    if policy not in ("raise", "skip", "zero", None):
        raise ValueError(
            f"`nonfinite` must be 'raise', 'skip', 'zero' or None; got {policy!r}. None does not look."
        )


def check_distinct(params: Iterable[Any]) -> None:
    """Raise ValueError if a tensor, or the tensor of a (name, tensor) pair, is listed twice."""
    seen: set[int] = set()
    for index, item in enumerate(params):
        tensor = item[1] if isinstance(item, tuple) else item
        if id(tensor) in seen:
            raise ValueError(
                f"`params` must hold each parameter once; number {index} of a group appears twice in it. "
                "A tied parameter belongs to one place of one group."
            )
        seen.add(id(tensor))


def _alike(params: Sequence[Tensor]) -> bool:
    """Whether all parameters with a gradient, and all gradients, are dense, real, of one device and dtype."""
    held = [p for p in params if p.grad is not None]
    kinds = {*map(_KIND, held), *map(_KIND, [p.grad for p in held])}
    return len(kinds) == 1 and all(layout == torch.strided and d.is_floating_point for layout, d, _ in kinds)


def check_gradients(params: Sequence[Tensor], *, complex_too: bool = False) -> bool:
    """Raise RuntimeError for a gradient of no use: sparse, complex, of another device or dtype.

    Returns True if all parameters with a gradient, and all gradients, have one device and real dtype.
    """
    if not is_compiling() and _alike(params):
        return True
    for index, param in enumerate(params):
        grad = param.grad
        if grad is None:
            continue
        check_dense(index, grad)
        if grad.is_complex() and not complex_too:
            raise RuntimeError(
                f"gradients must be real; parameter {index} has {grad.dtype}. "
                "Store its real and imaginary parts (`torch.view_as_real`)."
            )
        if grad.device != param.device or grad.dtype != param.dtype:
            raise RuntimeError(
                f"gradients must have their parameter's device and dtype ({param.device}, {param.dtype}); "
                f"parameter {index} has {grad.device}, {grad.dtype}. Zero the gradients after moving a model."
            )
    return False


def check_dense(index: int, grad: Tensor) -> None:
    """Raise RuntimeError if the gradient of parameter ``index`` is sparse."""
    if grad.layout != torch.strided:
        raise RuntimeError(
            f"gradients must be dense; parameter {index} has a sparse one ({grad.layout}). "
            "Make its layer with sparse=False, or use torch.optim.SparseAdam for it."
        )


def check_states(optimizer: Optimizer, params: Iterable[Tensor], names: Collection[str]) -> None:
    """Raise RuntimeError unless the state tensors of these names have their parameter's dtype and device.

    So that a step of a model that was moved since the last one changes nothing.
    """
    for index, param in enumerate(params):
        state = optimizer.state.get(param, {})
        for name in names:
            value = state.get(name, param)
            if value.dtype != param.dtype or value.device != param.device:
                raise RuntimeError(
                    f"state must have its parameter's dtype and device ({param.dtype}, {param.device}); "
                    f"`{name}` of parameter {index} has {value.dtype}, {value.device}. After moving a model: "
                    "optimizer.load_state_dict(optimizer.state_dict())."
                )


def check_complete(key: Any, state: Mapping[str, Any], required: Collection[str]) -> None:
    """Raise ValueError if a parameter's saved state lacks a required entry."""
    lacking = sorted(set(required) - state.keys())
    if lacking:
        raise ValueError(
            f"`state_dict`: the state of parameter {key} lacks {', '.join(lacking)}; it has "
            f"{', '.join(sorted(state)) or 'nothing'}. It was saved from another optimizer, or cut."
        )


def check_keys(state_dict: Mapping[str, Any]) -> None:
    """Raise ValueError unless a dictionary has the two keys of an optimizer's state dict."""
    if not {"state", "param_groups"} <= state_dict.keys():
        raise ValueError(
            f"`state_dict` must be an optimizer's, with `state` and `param_groups`; got the keys "
            f"{sorted(map(str, state_dict))[:6]}."
        )


def check_state_dict(optimizer: Grouped, state_dict: Mapping[str, Any], state_names: frozenset[str]) -> None:
    """Raise ValueError unless ``state_dict`` fits ``optimizer``: groups, options, state, shapes.

    Args:
        state_names: what the state of one parameter may hold.
    """
    name = type(optimizer).__name__
    check_keys(state_dict)
    sizes, saved_sizes = (
        [len(group["params"]) for group in groups]
        for groups in (optimizer.param_groups, state_dict["param_groups"])
    )
    if sizes != saved_sizes:
        raise ValueError(
            f"`state_dict` must have groups of {sizes} parameters, as this {name}; got {saved_sizes}. "
            "It was saved from another model, or with other groups."
        )
    for index, group in enumerate(state_dict["param_groups"]):
        # torch's AdamW sets this one in checkpoints from before it was an option.
        lacking = sorted(optimizer.defaults.keys() - group.keys() - {"decoupled_weight_decay"})
        if lacking:
            others = sorted(group.keys() - optimizer.defaults.keys() - {"params", "initial_lr"})
            raise ValueError(
                f"`state_dict` must be of {name}: group {index} lacks {', '.join(lacking)}"
                f"{' and has ' + ', '.join(others) if others else ''}. It was saved from another optimizer."
            )
    params = [p for group in optimizer.param_groups for p in group["params"]]
    keys = [key for group in state_dict["param_groups"] for key in group["params"]]
    listed = set(keys)
    unknown = [key for key in state_dict["state"] if key not in listed]
    if unknown:
        raise ValueError(
            f"`state_dict` must have state of the parameters that its groups list; got the key "
            f"{unknown[0]!r}. Convert keys that were written as text back to numbers."
        )
    for param, key in zip(params, keys, strict=True):
        _check_state(name, param, key, state_dict["state"].get(key, {}), state_names)


def _check_state(
    name: str, param: Tensor, key: Any, state: Mapping[str, Any], state_names: frozenset[str]
) -> None:
    strange = sorted(state.keys() - state_names)
    if strange:
        raise ValueError(
            f"`state_dict` must be of {name}, whose state is {', '.join(sorted(state_names))}; "
            f"parameter {key} has {', '.join(strange)}. "
            "It was saved from another optimizer, or with other options."
        )
    check_shapes(state, param, key)


def check_shapes(state: Mapping[str, Any], param: Tensor, key: Any) -> None:
    """Raise ValueError unless all of a parameter's saved tensors but scalars have its shape."""
    for entry, value in state.items():
        if isinstance(value, Tensor) and value.ndim and entry != "step" and value.shape != param.shape:
            raise ValueError(
                f"`state_dict`: `{entry}` of parameter {key} must have its shape {tuple(param.shape)}; "
                f"got {tuple(value.shape)}. It was saved from another model, or in another order."
            )
