"""A bonus by its name, its class, a function that makes it, or made already."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gymnasium.spaces import Space

from athena_core import create
from athena_explore._bonus import Bonus

BonusChoice = str | Callable[..., Bonus] | Bonus


def as_bonus(
    choice: BonusChoice,
    observation_space: Space,
    action_space: Space,
    *,
    options: Mapping[str, Any] | None = None,
    **defaults: Any,
) -> Bonus:
    """The bonus that is meant, for these spaces; one that is made already stays itself.

    Args:
        choice: the name of a component of the kind ``bonus``, a `Bonus` class, a function of both spaces, or
            a `Bonus`.
        options: for what is called; there are none for a `Bonus`.
        **defaults: such as ``seed``, for a name or a class, before ``options``; a function gets none.

    Raises AthenaError for an unknown name, TypeError for what is no bonus or options that nothing takes.

    >>> from gymnasium import spaces
    >>> box, three = spaces.Box(0, 1, (2,)), spaces.Discrete(3)
    >>> type(as_bonus("rnd", box, three, options={"width": 8}, seed=1)).__name__
    'RND'
    """
    options = dict(options or {})
    if isinstance(choice, Bonus):
        if options:
            raise TypeError(
                f"options are for a bonus that is still to be made; got {sorted(options)}. Give them where "
                "it is made."
            )
        return choice
    if isinstance(choice, str):
        return create("bonus", choice, observation_space, action_space, **{**defaults, **options})
    if inspect.isclass(choice):
        options = {**defaults, **options}
    made = choice(observation_space, action_space, **options) if callable(choice) else choice
    if not isinstance(made, Bonus):
        raise TypeError(
            "`bonus` must be a name, a `Bonus` class, a function that makes one, or a `Bonus`; "
            f'got {made!r}. Take "rnd".'
        )
    return made
