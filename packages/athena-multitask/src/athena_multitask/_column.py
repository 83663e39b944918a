"""One column of a progressive network: its stages, and what freezes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import nn

from athena_multitask._fresh import named_parts

RESIZABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Stage(nn.Module):
    """One layer, with what comes before and after it: laterals are added to the output of ``layer``.

    >>> Stage([nn.Flatten()], nn.Linear(4, 3), [nn.ReLU()]).after
    Sequential(
      (0): ReLU()
    )
    """

    def __init__(self, before: Sequence[nn.Module], layer: nn.Module, after: Sequence[nn.Module]) -> None:
        super().__init__()
        self.before = nn.Sequential(*before)
        self.layer = layer
        self.after = nn.Sequential(*after)


class Column(nn.Module):
    """The stages of one column, and the laterals by which each sees the earlier columns.

    A frozen column takes no gradient and stays in eval mode, whatever `train` says: buffers of normalizations
    keep their bits, and dropout is off.

    >>> column = Column([Stage([], nn.Linear(4, 3), [nn.BatchNorm1d(3)])], [None])
    >>> column.freeze()
    >>> column.train().training, [parameter.requires_grad for parameter in column.parameters()]
    (False, [False, False, False, False])
    """

    def __init__(self, stages: Sequence[Stage], laterals: Sequence[nn.Module | None]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.laterals = nn.ModuleList(nn.Identity() if lateral is None else lateral for lateral in laterals)
        self.frozen = False

    @property
    def parts(self) -> list[Stage]:
        """The stages, in order."""
        return list(self.stages)  # pyright: ignore[reportReturnType]

    def freeze(self) -> None:
        """Train it no more."""
        self.frozen = True
        self.requires_grad_(False)
        for parameter in self.parameters():
            parameter.grad = None  # an optimizer that still holds it leaves it alone, decay and momentum too
        self.train(False)

    def hold(self) -> None:
        """If frozen, undo what `train` of a part, or ``requires_grad`` of a parameter, has changed."""
        if not self.frozen:
            return
        for module in self.modules():
            if module.training:
                module.training = False
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.requires_grad = False

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        return super().requires_grad_(requires_grad and not self.frozen)


def stages_of(column: nn.Module, names: Sequence[str] | None) -> list[Stage]:
    """The stages of a Sequential, each from one layer with a weight matrix to the next; or those named.

    Raises ValueError for a module that is no Sequential without names, for a module in no stage, or for no
    weights.

    >>> stages = stages_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), None)
    >>> [stage.layer for stage in stages]
    [Linear(in_features=4, out_features=3, bias=True), Linear(in_features=3, out_features=2, bias=True)]
    """
    if names is not None:
        parts = named_parts(column, list(names), "stages")
        _refuse_left_out(column, parts)
        return [_stage(_flat(part)) for part in parts]
    if type(column) is not nn.Sequential:
        raise ValueError(
            f"`column` must be a Sequential, or `stages` name its parts in order; got a "
            f"{type(column).__name__}. Pass `stages=`, of "
            f"{[name for name, _ in column.named_children()]}."
        )
    groups: list[list[nn.Module]] = [[]]
    for part in _flat(column):
        if _weighted(part) and any(map(_weighted, groups[-1])):
            groups.append([])
        groups[-1].append(part)
    return [_stage(group) for group in groups]


def hidden_shapes(stages: Sequence[Stage]) -> list[tuple[int, ...]]:
    """Shapes of all weights and buffers, less the number of outputs of a last Linear or convolution.

    >>> hidden_shapes([Stage([], nn.Linear(4, 3), []), Stage([], nn.Linear(3, 7), [])])
    [(3, 4), (3,), (3,)]
    """
    last = stages[-1]
    if not isinstance(last.layer, RESIZABLE):
        return [shape for stage in stages for shape in _shapes(stage)]
    body = [shape for part in (*stages[:-1], last.before) for shape in _shapes(part)]
    return [*body, tuple(last.layer.weight.shape[1:])]


def resize_outputs(layer: nn.Module, outputs: int) -> None:
    """Give a Linear or a convolution another number of outputs, and new weights.

    >>> layer = nn.Linear(4, 3)
    >>> resize_outputs(layer, 5)
    >>> layer
    Linear(in_features=4, out_features=5, bias=True)
    """
    assert isinstance(layer, RESIZABLE)
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", outputs)
    for name, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, nn.Parameter(parameter.new_empty(outputs, *parameter.shape[1:])))
    layer.reset_parameters()


def _shapes(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in module.state_dict().values()]


def _flat(module: nn.Module) -> list[nn.Module]:
    """What a Sequential runs, those inside it opened."""
    if type(module) is not nn.Sequential:
        return [module]
    return [part for child in module for part in _flat(child)]


def _weighted(module: nn.Module) -> bool:
    """Whether it holds a weight matrix; gains and biases, as of a normalization, are none."""
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _stage(parts: Sequence[nn.Module]) -> Stage:
    at = next((index for index, part in enumerate(parts) if _weighted(part)), None)
    if at is None:
        raise ValueError(
            f"each stage must hold a layer with weights; got {[type(part).__name__ for part in parts]}. "
            "Put it into the stage before."
        )
    return Stage(parts[:at], parts[at], parts[at + 1 :])


def _refuse_left_out(column: nn.Module, parts: Sequence[nn.Module]) -> None:
    inside = {module for part in parts for module in part.modules()}
    for name, module in column.named_modules():
        leaf = not any(True for _ in module.children())
        owns = any(True for _ in module.parameters(recurse=False))
        if module not in inside and (leaf or owns):
            raise ValueError(
                f"`stages` must hold every module of the column; got none with {name or 'its own weights'!r}."
                " Name it too, or a module that holds it."
            )
