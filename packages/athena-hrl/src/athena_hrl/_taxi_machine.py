"""What is known of Taxi before learning: as options, as a partial program, as a task graph."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from typing import Any, NamedTuple

import numpy as np
from gymnasium.envs.toy_text.taxi import MAP

from athena_hrl._alisp_q_learning import Relevance
from athena_hrl._ham import HAM, Machine
from athena_hrl._ham_steps import Step, act, call, choose
from athena_hrl._option import Option
from athena_hrl._task_graph import QNode, Subtask, TaskGraph
from athena_hrl._value_iteration import FiniteMDP, value_iteration

N_STATES, N_ACTIONS, SIDE = 500, 6, 5
MOVES, PICKUP, DROPOFF = (0, 1, 2, 3), 4, 5  # south, north, east, west
PADS = (0, 0), (0, 4), (4, 0), (4, 3)  # red, green, yellow, blue
IN_TAXI = 4


class TaxiState(NamedTuple):
    """A state of Taxi by its features.

    >>> taxi_state(328), taxi_state(328).waits
    (TaxiState(position=(3, 1), passenger=2, destination=0), True)
    """

    position: tuple[int, int]  # row and column
    passenger: int  # the number of a pad, or `IN_TAXI`
    destination: int

    @property
    def waits(self) -> bool:
        """Whether the passenger waits at a pad."""
        return self.passenger != IN_TAXI


def taxi_state(state: int) -> TaxiState:
    """The features of a state's number.

    >>> taxi_state(19).passenger == IN_TAXI
    True
    """
    return _STATES[state]


def _decoded(state: int) -> TaxiState:
    rest, destination = divmod(state, 4)
    place, passenger = divmod(rest, 5)
    return TaxiState(divmod(place, SIDE), passenger, destination)


def _open_ways(row: int, column: int) -> tuple[int, ...]:
    """The moves that no wall stands in the way of."""
    line = MAP[1 + row]
    free = row < SIDE - 1, row > 0, line[2 * column + 2] == ":", line[2 * column] == ":"
    return tuple([move for move in MOVES if free[move]])


_STATES = [_decoded(state) for state in range(N_STATES)]
_OPEN_WAYS = {divmod(place, SIDE): _open_ways(*divmod(place, SIDE)) for place in range(SIDE**2)}


def taxi_options(model: FiniteMDP) -> list[Option]:
    """An option for each pad, which drives there the shortest way.

    >>> import gymnasium as gym
    >>> from athena_hrl import finite_mdp
    >>> to_red = taxi_options(finite_mdp(gym.make("Taxi-v4")))[0]
    >>> to_red.name, int(to_red.policy[100])  # one cell below the pad: north
    ('to pad 0', 1)
    """
    options = []
    for pad, place in enumerate(PADS):
        there = np.array([state.position == place for state in _STATES])
        moves = model.transition[:, : len(MOVES)] * ~there[:, None, None]
        policy = value_iteration(moves, np.full((N_STATES, len(MOVES)), -1.0)).argmax(1)
        options.append(Option(policy=policy, termination=there, initiation=~there, name=f"to pad {pad}"))
    return options


def navigate(machine: Machine, pad: int) -> Generator[Step, Any, None]:
    """Drive to a pad: which way is left open, but for walls.

    >>> HAM(navigate, 0)
    HAM(navigate, 0)
    """
    while machine.state.position != PADS[pad]:
        yield act((yield choose("direction", _OPEN_WAYS[machine.state.position])))


def get(machine: Machine) -> Generator[Step, Any, None]:
    """Fetch the passenger.

    >>> HAM(get)
    HAM(get)
    """
    yield call(navigate, machine.state.passenger)
    yield act(PICKUP)


def put(machine: Machine) -> Generator[Step, Any, None]:
    """Bring the passenger to the destination, as it is when the taxi sets out.

    >>> HAM(put)
    HAM(put)
    """
    yield call(navigate, machine.state.destination)
    yield act(DROPOFF)


def drive(machine: Machine) -> Generator[Step, Any, None]:
    """The whole program: one task after the other.

    >>> HAM(drive)
    HAM(drive)
    """
    yield call(get if machine.state.waits else put)


def taxi_program() -> HAM:
    """The partial program `drive`, whose directions are left open.

    >>> taxi_program()
    HAM(drive)
    """
    return HAM(drive, state=taxi_state)


def place_of(state: TaxiState) -> tuple[int, int]:
    """The state abstraction of HAMQ-learning: which way to go depends on the place, and on the calls.

    What comes after the call depends on the destination as well, which this forgets: the values are averages
    over it, but all ways differ by as much as they do for each of them.

    >>> place_of(taxi_state(328))
    (3, 1)
    """
    return state.position


def taxi_relevance() -> dict[str, Relevance]:
    """What the parts of a direction's value depend on, exactly without a discount.

    A move always costs the same. The way to a pad depends on the place and the pad. What comes after it
    depends on the task, the passenger and the destination alone, for the taxi is at the pad then.

    >>> sorted(taxi_relevance())
    ['direction']
    """
    direction = Relevance(
        reward=lambda *_: (),
        completion=lambda point, option: (point.state.position, point.stack[-1][2], option),
        exit=lambda point, _: (point.stack[-2][1], *point.state[1:]),
    )
    return {"direction": direction}


def taxi_graph(*, abstract: bool = True) -> TaskGraph:
    """The task graph of the paper.

    Args:
        abstract: share values among states as the paper does, which is exact without a discount.

    Source: Dietterich 2000, arXiv:cs/9905014, sections 3 and 5. Departs from it: a passenger can be left at
    any pad, as in Gymnasium's Taxi, so that the reward of a drop-off has three cases.

    >>> graph = taxi_graph()
    >>> sorted(task.name for task in graph.tasks), graph.n_values, taxi_graph(abstract=False).n_values
    (['get', 'navigate(0)', 'navigate(1)', 'navigate(2)', 'navigate(3)', 'put', 'root'], 617, 12060)
    """
    of = taxi_state

    def relevant(function: Callable[..., Hashable]) -> Callable[..., Hashable] | None:
        return function if abstract else None

    navigate = Subtask(
        "navigate",
        children=MOVES,
        ended=lambda state, pad: of(state).position == PADS[pad],
        relevant=relevant(lambda state, _: of(state).position),
    )
    passenger, destination = (lambda state: of(state).passenger), (lambda state: of(state).destination)
    fetch = QNode(navigate, lambda state: (passenger(state),), relevant=relevant(passenger))
    pick_up = QNode(PICKUP, relevant=relevant(lambda state: of(state)[:2]))
    get = Subtask("get", children=(fetch, pick_up), ended=lambda state: not of(state).waits)
    bring = QNode(navigate, lambda state: (destination(state),), relevant=relevant(destination))
    leave = QNode(DROPOFF, relevant=relevant(lambda state: (of(state).position, destination(state))))
    put = Subtask("put", children=(bring, leave), ended=lambda state: of(state).waits)
    tasks = (
        QNode(get, relevant=relevant(lambda state: of(state)[1:])),
        QNode(put, relevant=relevant(lambda _: ())),
    )
    root = Subtask("root", children=tasks, ended=lambda state: passenger(state) == destination(state))
    return TaskGraph(
        root,
        n_states=N_STATES,
        n_actions=N_ACTIONS,
        reward_depends_on=_reward_depends_on if abstract else None,
    )


def _reward_depends_on(state: int, action: int) -> Hashable:
    taxi = taxi_state(state)
    if action == PICKUP:
        return taxi.waits and taxi.position == PADS[taxi.passenger]
    if action == DROPOFF:
        return taxi.waits, taxi.position in PADS, taxi.position == PADS[taxi.destination]
    return ()
