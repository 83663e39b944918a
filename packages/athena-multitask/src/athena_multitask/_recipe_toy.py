"""The recipe `multitask-toy`: which methods find the Pareto front of two losses, one far smaller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from athena_core import AthenaError, Recipe, Run, one_thread
from athena_multitask._balancer import Balancer
from athena_multitask._recipe_methods import Method, method_names
from athena_multitask._recipe_toy_pictures import front_figure, trajectories_figure
from athena_multitask._toy import LOWEST, STARTS, pareto_distance, toy_gradients, toy_losses

TASKS = ("first", "second")
EPOCH = 100  # steps, for a weighting that compares epochs
RECORDS = 500  # points of a trajectory
REACHED = 0.2  # of the Pareto front, in units of the losses: a hundredth of what it spans in each


class Descents:
    """Descents by every method from every start, in one graph.

    A method sees losses and gradients of its own point alone, and has a state of its own for each start.

    Args:
        methods: names.
        steps: of each.
        lr: of Adam.
        scale: of the first loss.
        seed: of methods that draw.

    >>> descents = Descents(["static", "mgda"], steps=2, lr=1e-3, scale=0.1, seed=0)
    >>> descents.step()
    >>> descents.points.shape, descents.distances().shape
    (torch.Size([2, 5, 2]), torch.Size([2, 5]))
    """

    def __init__(self, methods: Sequence[str], *, steps: int, lr: float, scale: float, seed: int) -> None:
        self.points = nn.Parameter(torch.tensor(STARTS).expand(len(methods), -1, -1).clone())
        self.scales = torch.tensor([scale, 1.0])
        # A step from each point: its losses, to first order, are what a method is asked about.
        self.moves = [[nn.Parameter(torch.zeros(2)) for _ in STARTS] for _ in methods]
        self.methods = [
            [
                Method(name, TASKS, shared=[move], seed=len(STARTS) * seed + number)
                for number, move in enumerate(moves)
            ]
            for name, moves in zip(methods, self.moves, strict=True)
        ]
        learned = [one for row in self.methods for method in row for one in method.parameters]
        self.optimizer = torch.optim.Adam([self.points, *learned], lr=lr)
        self.every = max(1, steps // RECORDS)
        self.count = 0
        self.trajectory = [self.points.detach().clone()]

    def step(self) -> None:
        """One step of all."""
        self.optimizer.zero_grad()
        losses, matrices = toy_gradients(self.points)
        values, matrices = self.scaled(losses), matrices * self.scales[:, None]
        directions = [
            self.direction(method, move, value, matrix)
            for row, moves, *both in zip(self.methods, self.moves, values, matrices, strict=True)
            for method, move, value, matrix in zip(row, moves, *both, strict=True)
        ]
        self.points.grad = torch.stack(directions).view_as(self.points)
        self.optimizer.step()
        self.count += 1
        self.after()
        if self.count % self.every == 0:
            self.trajectory.append(self.points.detach().clone())

    def scaled(self, losses: Tensor) -> Tensor:
        """Losses as methods see them: scaled, and above 0, which some ask for; no gradient changes."""
        return (losses - LOWEST) * self.scales

    def direction(self, method: Method, move: nn.Parameter, value: Tensor, matrix: Tensor) -> Tensor:
        """What a method makes of two losses and their gradients."""
        if isinstance(method.part, Balancer):
            return method.part.direction(matrix)
        loss = method.part(dict(zip(TASKS, value + matrix @ move, strict=True)))
        if method.parameters:
            loss.backward()
            move.grad = None
        weights = method.part.weights
        assert weights is not None
        return weights @ matrix

    @torch.no_grad()
    def after(self) -> None:
        """What follows a step."""
        if any(row[0].needs_update for row in self.methods):
            values = self.scaled(toy_losses(self.points))
            for row, own in zip(self.methods, values, strict=True):
                for method, value in zip(row, own, strict=True):
                    method.update(dict(zip(TASKS, value, strict=True)))
        if self.count % EPOCH == 0:
            for row in self.methods:
                for method in row:
                    method.end_epoch()

    @torch.no_grad()
    def distances(self) -> Tensor:
        """From the Pareto front, ``(methods, starts)``, in the plane of the losses without the scale."""
        return pareto_distance(toy_losses(self.points))

    def state_dict(self) -> dict[str, Any]:
        """All that steps change."""
        return {
            "points": self.points.detach(),
            "optimizer": self.optimizer.state_dict(),
            "methods": [[method.state_dict() for method in row] for row in self.methods],
            "count": self.count,
            "trajectory": torch.stack(self.trajectory),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        with torch.no_grad():
            self.points.copy_(state["points"])
        self.optimizer.load_state_dict(state["optimizer"])
        for row, kept in zip(self.methods, state["methods"], strict=True):
            for method, own in zip(row, kept, strict=True):
                method.load_state_dict(own)
        self.count = state["count"]
        self.trajectory = list(state["trajectory"])


@dataclass(kw_only=True)
class MultitaskToy(Recipe):
    """Descend two losses of two parameters from five starts, by every balancer and weighting.

    The first loss is a tenth of what it is in the problem's first publication. Above lie two troughs, in
    which gradients conflict and a plain sum is caught; below, two bowls with the Pareto front between them.
    A method has come to the front when it is within 0.2 of it in the plane of the losses (not scaled).

    All is computed on the CPU, whatever the device: there are two numbers a point. All methods together take
    about 20 ms a step, some ten minutes in all; ``steps=3500, lr=0.01`` goes as far in a tenth of that. Which
    methods leave the troughs depends on the rate: the longer the steps, the more of them do.

    Args:
        steps: of each descent; 35,000 in Nash-MTL's paper.
        methods: names of balancers and weightings; none: all that are registered. ``static`` is the plain
            sum.
        lr: of Adam.
        scale: of the first loss.
        log_every: steps between two lines of the log.

    Source: Liu et al. 2021, arXiv:2110.14048, appendix (the losses); Navon et al. 2022, arXiv:2202.01017
    (starts, scale, Adam). Departs from them: more methods; the distance is ours.

    >>> MultitaskToy(methods=("nash-mtl", "static")).steps
    35000
    """

    steps: int = 35_000
    methods: tuple[str, ...] = ()
    lr: float = 1e-3
    scale: float = 0.1
    log_every: int = 500

    @classmethod
    def example(cls) -> Self:
        return cls(steps=4, log_every=1)

    def run(self, run: Run) -> Mapping[str, float]:
        self.check()
        names = method_names(self.methods)
        with one_thread():
            descents = Descents(names, steps=self.steps, lr=self.lr, scale=self.scale, seed=run.seed)
            for step in run.steps(self.steps, descents=descents):
                descents.step()
                if step % self.log_every == 0 or step == self.steps:
                    far = descents.distances().mean(1).tolist()
                    run.log(step, **dict(zip(names, far, strict=True)))
            return self.show(run, names, descents)

    def check(self) -> None:
        """Raises AthenaError for options out of their range."""
        for name in ("steps", "log_every", "lr", "scale"):
            if not (value := getattr(self, name)) > 0:
                raise AthenaError(f"`{name}` must be above 0; got {value}. Leave it at its default.")

    def show(self, run: Run, names: Sequence[str], descents: Descents) -> dict[str, float]:
        """Print, draw; the final metrics."""
        distances = dict(zip(names, descents.distances().tolist(), strict=True))
        run.print(table(distances))
        paths = torch.stack(descents.trajectory, dim=2)  # (methods, starts, records, 2)
        by_name = dict(zip(names, paths, strict=True))
        run.figure("trajectories", trajectories_figure(by_name, scale=self.scale))
        run.figure("front", front_figure(by_name))
        return {
            f"{name}_start_{number}": distance
            for name, row in distances.items()
            for number, distance in enumerate(row, start=1)
        }


def table(distances: Mapping[str, Sequence[float]]) -> str:
    """Distances from the Pareto front by method and start, in Markdown.

    >>> print(table({"static": [9.5, 0.01]}))
    | distance from the front | start 1 | start 2 | reached from |
    |---|---|---|---|
    | static | 9.500 | 0.010 | 1 of 2 |
    """
    count = len(next(iter(distances.values())))
    heads = " | ".join(f"start {number}" for number in range(1, count + 1))
    lines = [f"| distance from the front | {heads} | reached from |", "|---" * (count + 2) + "|"]
    for name, row in distances.items():
        cells = " | ".join(f"{distance:.3f}" for distance in row)
        lines.append(f"| {name} | {cells} | {sum(far < REACHED for far in row)} of {count} |")
    return "\n".join(lines)
