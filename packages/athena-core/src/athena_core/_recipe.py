"""A recipe: an experiment as a dataclass, its fields the options, its body `run`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from athena_core._errors import AthenaError

if TYPE_CHECKING:
    from athena_core._run import Run

_SLOT = "athena_core.slot"


@dataclass(frozen=True)
class Configured:
    """A component chosen by name, with its options: the value of a recipe's `component` field.

    >>> Configured("device", "cpu").create().type
    'cpu'
    """

    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def create(self, *args: Any, **given: Any) -> Any:
        """Build the component from the options, and from what the recipe gives where its signature names it.

        Raises AthenaError also for what the component refuses with ValueError or RuntimeError: it was the
        user who chose the options.
        """
        from inspect import signature

        from athena_core._registry import create, load

        taken = signature(load(self.kind, self.name)).parameters
        offered = {name: value for name, value in given.items() if name in taken}
        try:
            return create(self.kind, self.name, *args, **offered, **self.options)
        except (ValueError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise AthenaError(f"{self.kind} `{self.name}`: {why}") from error


@dataclass(frozen=True)
class Slot:
    """What a recipe's field says of the component that goes into it."""

    kind: str
    given: tuple[str, ...]


def component(kind: str, name: str, *, given: tuple[str, ...] = (), **options: Any) -> Any:
    """Declare a recipe's field that holds a component.

    Args:
        kind: the component's kind.
        name: the default component; ``options`` are its defaults, for this name only.
        given: options that the recipe passes itself, so that the user cannot set them. The
            component's first positional parameter is always the recipe's.

    >>> from dataclasses import dataclass
    >>> @dataclass(kw_only=True)
    ... class Fit(Recipe):
    ...     tracker: Configured = component("tracker", "jsonl")
    ...
    ...     def run(self, run):
    ...         return {}
    >>> Fit(steps=3).tracker.name
    'jsonl'
    """
    default = Configured(kind, name, options)
    return field(default=default, metadata={_SLOT: Slot(kind, given)})


def slots(recipe: type[Recipe]) -> dict[str, Slot]:
    """The component fields of a recipe, by name."""
    from dataclasses import fields

    return {f.name: f.metadata[_SLOT] for f in fields(recipe) if _SLOT in f.metadata}


@dataclass(kw_only=True)
class Recipe(ABC):
    """Base of every recipe (kind ``recipe``): subclass it as a keyword-only dataclass.

    Each field is an option of ``athena run NAME``, of a type that TOML can hold (bool, int, float,
    str, `pathlib.Path`, `enum.Enum`, ``Literal``, None, and lists, tuples and string-keyed
    dictionaries of them) or a `component`. Field names that the command line uses itself
    (``seed``, ``device``, ``out``, ...) are taken.

    Args:
        steps: how many steps to run.

    >>> @dataclass(kw_only=True)
    ... class Halve(Recipe):
    ...     start: float = 8.0
    ...
    ...     def run(self, run):
    ...         for step in run.steps(self.steps):
    ...             run.log(step, value=self.start / 2**step)
    ...         return {"value": self.start / 2**self.steps}
    >>> Halve(start=2.0)
    Halve(steps=100, start=2.0)
    """

    steps: int = 100

    @classmethod
    def example(cls) -> Self:
        """A small instance, which the conformance kit runs several times; override it if 4 steps are long."""
        return cls(steps=4)

    @abstractmethod
    def run(self, run: Run) -> Mapping[str, float]:
        """Do the experiment, and return its final metrics."""
