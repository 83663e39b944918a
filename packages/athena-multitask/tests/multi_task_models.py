"""A model of each kind, of odd sizes, with tasks of different outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from athena_multitask import CGC, MTAN, PLE, CrossStitch, FiLM, MMoE, MultiTask, MultiTaskModel, TaskAttention

TASKS = ("near", "far", "flat")
WIDTH, HIDDEN = 5, 7
OUTPUTS = {"near": 1, "far": 3, "flat": 2}


def heads(tasks: Sequence[str]) -> dict[str, nn.Module]:
    return {name: nn.Linear(HIDDEN, OUTPUTS.get(name, 1)) for name in tasks}


def stage(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.Tanh())


def hard(tasks: Sequence[str] = TASKS) -> MultiTask:
    return MultiTaskModel(stage(WIDTH), heads(tasks))


def mmoe(tasks: Sequence[str] = TASKS) -> MultiTask:
    gates = {name: nn.Linear(WIDTH, 4, bias=False) for name in tasks}
    return MMoE([stage(WIDTH) for _ in range(4)], gates=gates, heads=heads(tasks))


def cgc(tasks: Sequence[str], width: int, *, last: bool) -> CGC:
    """The first task has one expert of its own, the next two, and so on; the shared ones are two."""
    own = {name: [stage(width) for _ in range(1 + place)] for place, name in enumerate(tasks)}
    gates = {name: nn.Linear(width, 2 + len(experts), bias=False) for name, experts in own.items()}
    count = 2 + sum(map(len, own.values()))
    shared_gate = None if last else nn.Linear(width, count, bias=False)
    return CGC([stage(width), stage(width)], task_experts=own, gates=gates, shared_gate=shared_gate)


def ple(tasks: Sequence[str] = TASKS) -> MultiTask:
    layers = [
        cgc(tasks, WIDTH, last=False),
        cgc(tasks, HIDDEN, last=False),
        cgc(tasks, HIDDEN, last=True),
    ]
    return PLE(layers, heads=heads(tasks))


def one_layer(tasks: Sequence[str] = TASKS) -> MultiTask:
    return PLE([cgc(tasks, WIDTH, last=True)], heads=heads(tasks))


def cross_stitch(tasks: Sequence[str] = TASKS) -> MultiTask:
    return CrossStitch({name: [stage(WIDTH), stage(HIDDEN)] for name in tasks}, heads=heads(tasks))


def channel_stitch(tasks: Sequence[str] = TASKS) -> MultiTask:
    columns = {name: [stage(WIDTH), stage(HIDDEN)] for name in tasks}
    return CrossStitch(columns, heads=heads(tasks), channels=[HIDDEN, HIDDEN])


def mtan(tasks: Sequence[str] = TASKS) -> MultiTask:
    stages = [(nn.Linear(WIDTH, 6), stage(6)), (nn.Linear(HIDDEN, 4), stage(4))]
    attention = {
        name: [
            TaskAttention(nn.Linear(6, HIDDEN)),
            TaskAttention(nn.Linear(4 + 2, HIDDEN), nn.Linear(HIDDEN, 2)),
        ]
        for name in tasks
    }
    return MTAN(stages, attention=attention, heads=heads(tasks))


def film(tasks: Sequence[str] = TASKS) -> MultiTask:
    model = FiLM(
        [stage(WIDTH), stage(HIDDEN)], channels=[HIDDEN, HIDDEN], heads=heads(tasks), embedding_dim=3
    )
    for generator in model.generators:  # not the identity, where tasks would be alike
        nn.init.normal_(generator.weight, std=0.3)
    return model


MODELS: dict[str, Callable[..., MultiTask]] = {
    "hard": hard,
    "mmoe": mmoe,
    "ple": ple,
    "one-layer": one_layer,
    "cross-stitch": cross_stitch,
    "channel-stitch": channel_stitch,
    "mtan": mtan,
    "film": film,
}
