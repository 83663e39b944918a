"""A hierarchy of abstract machines: a partial program, whose choices are left to be learned."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from athena_hrl._machine_names import named


class Machine:
    """What a machine gets as its first argument: the state of the environment.

    Attributes:
        state: the current observation, decoded by the ``state`` of `HAM`. A new one after each action.

    >>> Machine().state is None
    True
    """

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None


class HAM:
    r"""A partial program: machines that act, call each other, and leave choices open.

    A machine is a generator function. It yields `act`, `choose` or `call`; returning is the stop state. Its
    first argument is the `Machine`, through which it sees the environment; the others come from `call`.
    A `GraphMachine` is the same as data.

    A root that returns starts again, while the episode lasts. An episode that ends unwinds all machines: each
    is closed where it stands, the innermost first.

    Machines must be deterministic: what they yield may depend on their arguments, on ``machine.state`` and on
    what their yields gave, on nothing else. Random numbers and outer variables would break copies and saved
    states, which replay a machine, and the values of its choices, which are kept by labels and arguments.
    What an environment observes must be new objects each step, since a replay goes through them again.

    An option that leads back to its choice without an action costs nothing, so nothing speaks against it:
    offer none.

    Args:
        root: the machine that runs first.
        args: of ``root``.
        state: of an observation makes what machines see as ``machine.state``; None is the observation.
        limit: machine transitions without an action, at which a machine counts as caught in a loop. A loop
            without a ``yield`` cannot be seen.

    Raises TypeError if ``root`` is no function, or for arguments that are no numbers, strings, machines or
    tuples of them; ValueError if ``limit`` is below 1.

    Source: Parr and Russell 1998, "Reinforcement learning with hierarchies of machines", NIPS 10.
    Departs from it: machines are programs with arguments, local variables and results, as in Andre and
    Russell 2002, "State abstraction for programmable reinforcement learning agents", AAAI; machines choose
    no step at random.

    >>> from athena_hrl import act, call, choose
    >>> def walk(machine, steps):
    ...     for _ in range(steps):
    ...         yield act(1)
    >>> def root(machine):
    ...     steps = yield choose("steps", (1, 2))
    ...     yield call(walk, steps)
    >>> HAM(root)
    HAM(root)
    """

    def __init__(
        self,
        root: Any,
        *args: Hashable,
        state: Callable[[Any], Any] | None = None,
        limit: int = 10_000,
    ) -> None:
        if limit < 1:
            raise ValueError(f"`limit` must be at least 1; got {limit}.")
        named(args)
        self.root, self.args, self.state, self.limit = root, args, state, limit
        self._known: dict[str, Any] = {}  # machines by name
        self.name_of(root)

    def name_of(self, machine: Any) -> str:
        """The name of a machine, by which its choices are known.

        Raises TypeError for what is no machine, ValueError if another one has the name.
        """
        name = getattr(machine, "__name__", None)
        if not callable(machine) or type(name) is not str:
            raise TypeError(
                f"a machine must be a generator function or a GraphMachine; got {machine!r}. Pass the "
                "function and its arguments apart: `call(machine, *args)`."
            )
        # The same nested function is made anew with each run of the outer one.
        code = getattr(machine, "__code__", machine)
        known = self._known.setdefault(name, code)
        if known is not code and known != code:
            raise ValueError(f"two machines have the name {name!r}. Rename one: values are kept by name.")
        return name

    def __deepcopy__(self, memo: dict[int, Any]) -> HAM:
        return self  # a program; what runs is in the CallStack

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_known": {}}  # code has no state to pickle

    def __repr__(self) -> str:
        return f"HAM({', '.join([self.name_of(self.root), *map(repr, self.args)])})"
