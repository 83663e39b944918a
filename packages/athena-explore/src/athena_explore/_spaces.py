"""What Gymnasium's spaces say of observations and actions: dense inputs, and clear refusals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from gymnasium.spaces import Space
from torch import Tensor

SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of them"


def leaves(space: Space, name: str = "observation_space") -> Iterator[tuple[str, Space]]:
    """The spaces that a Dict or Tuple is made of, in order, with their names; a plain space is its own.

    Raises ValueError for a space that is not supported, or has no parts.

    >>> box = spaces.Box(0, 1, (2,))
    >>> [name for name, _ in leaves(spaces.Dict({"a": box, "b": box}))]
    ["observation_space['a']", "observation_space['b']"]
    """
    if isinstance(space, spaces.Dict | spaces.Tuple) and not space.spaces:
        raise ValueError(f"`{name}` must have parts; got {space}. Give it one at least.")
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from leaves(part, f"{name}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from leaves(part, f"{name}[{index}]")
    elif isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        yield name, space
    else:
        raise ValueError(
            f"`{name}` must be of {SUPPORTED}; got {one_line(space)}. Wrap the environment to give one of "
            "these."
        )


def parts(space: Space, value: Any) -> Iterator[Any]:
    """The tensors of an observation in the order of `leaves`."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from parts(part, value[key])
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from parts(part, value[index])
    else:
        yield value


def rebuild(space: Space, values: Iterator[Any]) -> Any:
    """An observation from its tensors in the order of `leaves`: the inverse of `parts`.

    >>> rebuild(spaces.Dict({"a": spaces.Discrete(2)}), iter([torch.tensor(1)]))
    {'a': tensor(1)}
    """
    if isinstance(space, spaces.Dict):
        return {key: rebuild(part, values) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(rebuild(part, values) for part in space.spaces)
    return next(values)


def one_line(space: Space) -> str:
    """A space as errors show it: arrays of many bounds would take a line for every few.

    >>> len(one_line(spaces.MultiDiscrete([2] * 99)).splitlines())
    1
    """
    return " ".join(str(space).split())


def shape_of(space: Space) -> tuple[int, ...]:
    """The shape of one observation or action of a plain space."""
    assert space.shape is not None
    return tuple(space.shape)


def is_image(space: Space) -> bool:
    """Whether a plain space has rows, columns and channels: 8-bit values in three axes."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype.name == "uint8"


def dense_width(space: Space) -> int:
    """How many numbers `dense` makes of one value of a plain space."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return math.prod(shape_of(space))


def dense(space: Space, value: Tensor) -> Tensor:
    """Values of a plain space as rows of floats: one-hot where they are discrete, flattened else.

    Shape: ``(B, *shape) -> (B, width)``.

    >>> dense(spaces.Discrete(3, start=1), torch.tensor([1, 3]))
    tensor([[1., 0., 0.],
            [0., 0., 1.]])
    """
    if isinstance(space, spaces.Discrete):
        return F.one_hot(value.long() - int(space.start), int(space.n)).float()
    flat = value.reshape(value.shape[0], math.prod(shape_of(space)))
    if isinstance(space, spaces.MultiDiscrete):
        sizes = [int(size) for size in space.nvec.flatten()]
        starts = [int(start) for start in space.start.flatten()]
        columns = [F.one_hot(flat[:, i].long() - starts[i], size) for i, size in enumerate(sizes)]
        return torch.cat(columns, 1).float()
    return flat if flat.is_floating_point() else flat.float()


def check(space: Space, value: Any, lead: torch.Size, name: str) -> None:
    """Refuse an observation or action that is none of the space.

    Raises ValueError where a shape differs, a float is NaN or infinite, or a discrete value lies outside.
    """
    try:
        pairs = list(zip(leaves(space, name), parts(space, value), strict=True))
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"`{name}` must have the parts of {one_line(space)}; {error} is missing.") from error
    for (part, plain), tensor in pairs:
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != (*lead, *shape_of(plain)):
            got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(
                f"`{part}` must have the shape {(*tuple(lead), *shape_of(plain))}, of {one_line(plain)}; "
                f"got {got}. Give steps, environments, then the space's own axes."
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"`{part}` must be finite; got {_not_finite(tensor)}. Mend the environment.")
        if isinstance(plain, spaces.Discrete):
            _check_range(plain, plain.start, plain.n, tensor, part)
        elif isinstance(plain, spaces.MultiDiscrete):
            _check_range(plain, plain.start, plain.nvec, tensor, part)
        elif isinstance(plain, spaces.MultiBinary):
            _check_range(plain, 0, 2, tensor, part)


def _check_range(space: Space, start: Any, size: Any, tensor: Tensor, name: str) -> None:
    low = torch.as_tensor(start, device=tensor.device)
    high = low + torch.as_tensor(size, device=tensor.device)
    outside = (tensor < low) | (tensor >= high)
    if bool(outside.any()):
        raise ValueError(
            f"`{name}` must lie in {one_line(space)}; got {tensor[outside][0].item()}. Mend the environment, "
            "or make the bonus of its spaces."
        )


def _not_finite(tensor: Tensor) -> str:
    where = torch.nonzero(~tensor.isfinite())[0].tolist()
    return f"{tensor[tuple(where)].item()} at {where}"
