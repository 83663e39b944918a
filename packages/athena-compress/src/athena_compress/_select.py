"""Layers of a model, named by pattern."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate

from torch import nn

Patterns = str | Sequence[str]


def select(
    model: nn.Module,
    kinds: tuple[type[nn.Module], ...] = (nn.Module,),
    *,
    include: Patterns = ("*",),
    skip: Patterns = (),
) -> dict[str, nn.Module]:
    """The layers of these classes whose names match ``include`` and not ``skip``, in the model's order.

    Args:
        model: any module; its own name is the empty string.
        kinds: classes, subclasses among them.
        include: shell patterns of names, ``"*"`` also over dots: ``"encoder"``, ``"*.attention.out"``. A
            pattern that matches a module is one of all modules inside it, too.
        skip: the same, of what to leave out.

    A module that stands in several places appears once, under the first name that is selected, and is
    left out if any of its names is skipped: what is shared is treated alike. Raises ValueError for a
    pattern that matches no module at all.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> list(select(model, (nn.Linear,), skip="2"))
    ['0']
    """
    include, skip = as_patterns(include), as_patterns(skip)
    every = dict(model.named_modules(remove_duplicate=False))
    for parameter, patterns in (("include", include), ("skip", skip)):
        check_patterns(parameter, patterns, every)
    skipped = {id(module) for name, module in every.items() if matches(name, skip)}
    found: dict[str, nn.Module] = {}
    seen = set(skipped)
    for name, module in every.items():
        if isinstance(module, kinds) and id(module) not in seen and matches(name, include):
            seen.add(id(module))
            found[name] = module
    return found


def as_patterns(patterns: Patterns) -> tuple[str, ...]:
    """One pattern or several, as a tuple. Raises ValueError for anything else."""
    several = (patterns,) if isinstance(patterns, str) else patterns
    if not isinstance(several, Iterable) or not all(isinstance(one, str) for one in several):
        raise ValueError(f"patterns must be a string or several; got {patterns!r}. Use () for none.")
    return tuple(several)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns matches the whole name, or that of a module around it.

    >>> matches("encoder.0.out", ("encoder",)), matches("encoder.0.out", ("out",))
    (True, False)
    """
    around = accumulate(name.split("."), "{}.{}".format)
    return any(fnmatchcase(one, pattern) for one in around for pattern in patterns)


def check_patterns(parameter: str, patterns: tuple[str, ...], names: dict[str, nn.Module]) -> None:
    """Raises ValueError for a pattern that matches none of the names."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(name for name in list(names)[1:9])
            raise ValueError(
                f"`{parameter}`: the pattern {pattern!r} must match the name of a layer, and matches none. "
                f"The names begin with: {shown or 'none, as the model is a single layer'}."
            )
