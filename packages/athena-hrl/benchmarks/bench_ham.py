"""The interpreter of machines: microseconds a machine transition, alone and with environments.

A transition is one resumption of a machine: after an action, a choice, a call's return, or at its start. The
bar is 200,000 a second, 5 microseconds each. "alone" has an environment that does nothing; beside it stands
what the same generators take when a loop sends to them without a call stack, choices, rewards or recordings.
With an environment of Gymnasium, its own steps are in the time, and beside it. Times are the processor's, of
the one thread there is, so that other programs on the machine count for little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym

from athena_core.testing.bench import medians, parser, row, run
from athena_hrl import HAM, GraphMachine, InducedSMDP, act, call, choose

BAR = 5.0  # microseconds


def walk(machine: Any, goal: int) -> Any:
    """Four choices of a direction, and as many steps."""
    for _ in range(4):
        direction = yield choose("direction", range(4))
        yield act(direction)
    return goal


def tour(machine: Any) -> Any:
    for goal in range(4):
        yield call(walk, goal)


def steps_only(machine: Any) -> Any:
    yield choose("never again", range(2))
    for _ in range(200):
        yield act(1)


WALK = GraphMachine(
    "walk",
    {
        "which": {
            "kind": "choice",
            "label": "direction",
            "options": [[action, f"go {action}"] for action in range(4)],
        },
        **{f"go {action}": {"kind": "action", "action": action, "next": "end"} for action in range(4)},
        "end": {"kind": "stop"},
    },
    start="which",
)
MACHINES = {"calls and choices": tour, "actions alone": steps_only, "a graph": WALK}


class Nothing(gym.Env[int, int]):
    """Takes no time, and ends an episode after 200 steps."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.left = 200
        return 0, {}

    def step(self, action: int) -> Any:
        self.left -= 1
        return 0, 0.0, self.left == 0, False, {}


def seconds(function: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def per_transition(env: gym.Env[Any, Any], ham: HAM, choices: int) -> Callable[[], float]:
    """A measure of the microseconds of a transition, episodes and their starts included."""

    def measure() -> float:
        smdp = InducedSMDP(env, ham, gamma=0.99)

        def play() -> None:
            segment = smdp.reset(seed=0)
            for number in range(choices):
                segment = smdp.reset() if segment.ended else smdp.choose(number % 2)

        return seconds(play) * 1e6 / smdp.stack.transitions

    return measure


def bare(root: Any, transitions: int) -> Callable[[], float]:
    """The same generators in a loop that keeps them on a list and does nothing else."""

    def play() -> None:
        stack, sent = [root(None)], None
        for _ in range(transitions):
            try:
                step = stack[-1].send(sent)
            except StopIteration:
                stack.pop()
                if not stack:
                    stack.append(root(None))
                step = sent = None
            if step is not None:
                sent = 0
                if hasattr(step, "machine"):
                    stack.append(step.machine(None, *step.args))
                    sent = None

    return lambda: seconds(play) * 1e6 / transitions


def env_step(env: gym.Env[Any, Any], steps: int) -> Callable[[], float]:
    """A measure of the microseconds of a step of an environment."""

    def play() -> None:
        env.reset(seed=0)
        for number in range(steps):
            _, _, terminated, truncated, _ = env.step(number % 2)
            if terminated or truncated:
                env.reset()

    return lambda: seconds(play) * 1e6 / steps


def rows(*, repeats: int, choices: int) -> Iterator[dict[str, Any]]:
    """Each kind of machine alone; then with Taxi."""
    for name, root in MACHINES.items():
        count = choices // 50 if root is steps_only else choices
        measures = [per_transition(Nothing(), HAM(root), count)]
        if root is not WALK:
            measures.append(bare(root, choices))
        ours, *peers = medians(repeats, *measures)
        yield row(
            f"{name}, alone",
            ours=ours,
            peers={"bar": BAR, **({"bare generators": peers[0]} if peers else {})},
            unit="us",
            per_second=round(1e6 / ours),
        )
    env = gym.make("Taxi-v4")
    ours, step = medians(repeats, per_transition(env, HAM(tour), choices // 5), env_step(env, choices // 5))
    peers = {"bar": BAR, "a step of Taxi": step}
    yield row("calls and choices, Taxi", ours=ours, peers=peers, unit="us", per_second=round(1e6 / ours))


if __name__ == "__main__":
    options = parser(__doc__, repeats=9)
    options.add_argument("--choices", type=int, default=20_000, metavar="N")
    run(options, rows)
