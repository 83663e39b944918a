"""The machines of a robot that knows what hallways are, for the maze of hallways with obstacles."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

from athena_hrl._ham import HAM, Machine
from athena_hrl._ham_steps import Step, act, call, choose
from athena_hrl._parr_russell_maze import SIDES, ParrRussellMaze

Steps = Generator[Step, Any, None]


class MazeView(NamedTuple):
    """What the machines see.

    >>> MazeView(
    ...     state=0, intersection=0, in_hallway=False, exits=(1, 3), blocked=(True, False, True, False)
    ... ).exits
    (1, 3)
    """

    state: int  # of the maze
    intersection: int  # its number; -1 in a hallway
    in_hallway: bool
    exits: tuple[int, ...]  # the directions of hallways, where in an intersection
    blocked: tuple[bool, ...]  # whether a wall or an obstacle is right there, in each direction


def travel(machine: Machine) -> Steps:
    """At each intersection, choose the next hallway."""
    direction = yield choose("hallway", machine.state.exits)
    yield call(traverse, direction)


def traverse(machine: Machine, direction: int) -> Steps:
    """Go in a direction, into a hallway and to its other end, around what is in the way."""
    while not machine.state.in_hallway:
        yield act(direction)
    while machine.state.in_hallway:
        if machine.state.blocked[direction]:
            side = yield choose("side", tuple(s for s in SIDES[direction] if not machine.state.blocked[s]))
            yield call(pass_by, direction, side)
        else:
            yield act(direction)


def pass_by(machine: Machine, direction: int, side: int) -> Steps:
    """Go aside until the way is free, or this way ends."""
    yield act(side)
    while machine.state.in_hallway and machine.state.blocked[direction] and not machine.state.blocked[side]:
        yield act(side)


def parr_russell_machine(maze: ParrRussellMaze) -> HAM:
    """Machines for a `ParrRussellMaze`, that choose hallways at intersections and sides at obstacles.

    The robot is told what an intersection and an obstacle are; where to go is left to be learned. Choices are
    met at intersections and obstacles alone, so that few of the maze's states need values.

    Args:
        maze: the rules of the environment.

    Source: in the manner of Parr and Russell 1998, "Reinforcement learning with hierarchies of machines",
    NIPS 10. Departs from it: the paper draws the machines of its own maze; these are written for this one.

    >>> from athena_core.environments import NumpyEnv
    >>> from athena_hrl import HAMQLearning
    >>> maze = ParrRussellMaze(intersections=2)
    >>> learner = HAMQLearning(NumpyEnv(maze), parr_russell_machine(maze), gamma=0.999).learn(500)
    >>> sorted({label for _, label, _ in learner.q})
    ['hallway', 'side']
    """
    exits = [tuple(move for move in range(4) if row[move] >= 0) for row in maze.exits.tolist()]
    following = maze.next_state.tolist()
    views = [
        MazeView(
            state,
            intersection,
            in_hallway=hallway >= 0,
            exits=() if hallway >= 0 else exits[intersection],
            blocked=tuple(to == state for to in following[state]),
        )
        for state, (hallway, intersection) in enumerate(
            zip(maze.hallways.tolist(), maze.intersections.tolist(), strict=True)
        )
    ]
    return HAM(travel, state=views.__getitem__)
