"""Which of its goals an environment takes next."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

Goals = Literal["random", "cycle", "hold"]


class GoalOrder:
    r"""The order in which a set of goals is visited, from a generator of its own.

    - ``"random"``: each drawn uniformly, so :math:`n` episodes miss a share of about :math:`1/e` of
      :math:`n` goals;
    - ``"cycle"``: :math:`0, 1, \ldots, n - 1, 0, \ldots`, so :math:`n` episodes visit each once;
    - ``"hold"``: one drawn uniformly, kept until `sample`, as meta-learning's episodes of one task need.

    Args:
        n_goals: how many there are.
        how: the order.
        entropy: whole numbers that seed the generator.

    Raises ValueError for fewer than one goal, or an unknown order.

    >>> cycle = GoalOrder(3, how="cycle", entropy=[0])
    >>> [cycle.next() for _ in range(5)]
    [0, 1, 2, 0, 1]
    >>> hold = GoalOrder(50, how="hold", entropy=[0])
    >>> hold.next() == hold.next()
    True
    """

    def __init__(self, n_goals: int, *, how: Goals, entropy: list[int]) -> None:
        if n_goals < 1:
            raise ValueError(f"`n_goals` must be at least 1; got {n_goals}. Meta-World's benchmarks have 50.")
        if how not in get_args(Goals):
            raise ValueError(f'`goals` must be "random", "cycle" or "hold"; got {how!r}. Take "random".')
        self.n_goals, self.how = n_goals, how
        self.restart(entropy)

    def restart(self, entropy: list[int]) -> None:
        """Begin again, as if made with this entropy."""
        self.generator = np.random.default_rng(entropy)
        self.current: int | None = None

    def next(self) -> int:
        """The goal of the next episode."""
        if self.how == "hold" and self.current is not None:
            return self.current
        return self.sample()

    def sample(self) -> int:
        """Move on to another goal, whatever the order; it may be the same where it is drawn."""
        if self.how == "cycle":
            self.current = 0 if self.current is None else (self.current + 1) % self.n_goals
        else:
            self.current = int(self.generator.integers(self.n_goals))
        return self.current

    def state_dict(self) -> dict[str, Any]:
        """The generator and the goal at which it stands."""
        return {"generator": self.generator.bit_generator.state, "current": self.current}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.generator.bit_generator.state = state["generator"]
        self.current = state["current"]
