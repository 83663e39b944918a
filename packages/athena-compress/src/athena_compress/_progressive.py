"""Progressive distillation: what a student learns, and with which weights, changes by stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor, nn

from athena_compress._distillation_loss import check_alpha
from athena_compress._distiller import Distiller, Losses
from athena_compress._select import Patterns, as_patterns, matches


@dataclass(frozen=True)
class Stage:
    """A number of steps with settings of their own.

    Args:
        steps: how many, from 1 on.
        features: names of the teacher's modules that are matched; None for all of the distiller's.
        output: whether the output is learned too, from labels and soft targets.
        alpha: the soft targets' share; two of them for a line from the first step to the stage's end; None
            for the distiller's own.
        freeze: patterns of names of the student's modules that do not learn; these are in eval mode too.

    Raises ValueError for steps below 1 and an alpha outside [0, 1].

    >>> Stage(steps=100, features=("layers.1",), output=False, freeze="layers.0").freeze
    'layers.0'
    """

    steps: int
    features: tuple[str, ...] | None = None
    output: bool = True
    alpha: float | tuple[float, float] | None = None
    freeze: Patterns = ()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1; got {self.steps}. Leave the stage out.")
        for alpha in self.alpha if isinstance(self.alpha, tuple) else (self.alpha,):
            if alpha is not None:
                check_alpha(alpha)


class ProgressiveDistiller:
    """Takes a distiller through stages: call `loss` for each batch, and `step` after each optimizer step.

    Args:
        distiller: its weights and its alpha, as they are now, are those that stages leave out; while stages
            run they are set here.
        stages: in order. Past the last one, its settings stay.

    A stage takes modules that it freezes out of training, by ``requires_grad``, and puts them into eval mode,
    so that their batch statistics stay too; the next one gives back what it does not freeze itself.
    Parameters that did not learn before stay as they are. The optimizer is made once, of
    ``distiller.parameters()``: it passes over those without a gradient, as torch's do.

    ``state_dict()`` holds the number of steps taken: a new one with the same stages goes on from there.
    The models' and the optimizer's own state are saved apart.

    Raises ValueError for no stages, and names that the distiller or the student does not have.
    Source: none of its own; `layer_by_layer` and `teacher_annealing` make the stages of published methods.

    >>> teacher, student = (nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)) for _ in range(2))
    >>> distiller = Distiller(teacher, student, features={"0": "0"})
    >>> stages = [Stage(steps=2, output=False), Stage(steps=1, features=(), freeze="0")]
    >>> progressive = ProgressiveDistiller(distiller, stages)
    >>> for _ in range(3):
    ...     print(progressive.stage, student[0].weight.requires_grad)
    ...     progressive.step()
    0 True
    0 True
    1 False
    >>> progressive.done
    True
    """

    def __init__(self, distiller: Distiller, stages: Sequence[Stage]) -> None:
        self.distiller = distiller
        self.stages = tuple(stages)
        self._alpha, self._output_weight = distiller.alpha, distiller.output_weight
        self._feature_weights = dict(distiller.feature_weights)
        self._frozen = [_frozen(distiller.student, stage.freeze) for stage in self.stages]
        self._learning = [p for p in distiller.student.parameters() if p.requires_grad]
        self._resting: set[nn.Module] = set()
        self._check()
        self.steps = 0
        self._apply()

    @property
    def stage(self) -> int:
        """The number of the stage, from 0."""
        ends = list(accumulate(stage.steps for stage in self.stages))
        return min(sum(self.steps >= end for end in ends), len(ends) - 1)

    @property
    def done(self) -> bool:
        """Whether all stages are over."""
        return self.steps >= sum(stage.steps for stage in self.stages)

    def loss(
        self,
        inputs: Any,
        targets: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        teacher_outputs: Tensor | None = None,
    ) -> Losses:
        """`Distiller.loss` with the stage's settings."""
        for module in self._resting:  # again at each step, as `train()` wakes them
            module.training = False
        return self.distiller.loss(inputs, targets, mask=mask, teacher_outputs=teacher_outputs)

    def step(self) -> None:
        """Count a step, after the optimizer's, and begin the next stage where this one is over."""
        self.steps += 1
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """The number of steps taken, and the stages' lengths, by which a resumed run knows them."""
        return {"steps": self.steps, "stages": [stage.steps for stage in self.stages]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there. Raises ValueError for a state of other stages."""
        lengths = [stage.steps for stage in self.stages]
        if list(state_dict["stages"]) != lengths:
            raise ValueError(
                f"`state_dict` must be of stages of {lengths} steps; got {list(state_dict['stages'])}. "
                "Resume with the stages that the run began with."
            )
        self.steps = int(state_dict["steps"])
        self._apply()

    def _apply(self) -> None:
        """Put the settings of the stage in force."""
        index = self.stage
        stage, distiller = self.stages[index], self.distiller
        distiller.alpha = self._alpha_now(stage, self.steps - sum(one.steps for one in self.stages[:index]))
        distiller.output_weight = self._output_weight if stage.output else 0.0
        for name, weight in self._feature_weights.items():
            distiller.feature_weights[name] = (
                weight if stage.features is None or name in stage.features else 0.0
            )
        resting = self._frozen[index]
        for module in self._resting - resting:
            module.training = distiller.student.training
        self._resting = resting
        frozen = {parameter for module in resting for parameter in module.parameters(recurse=False)}
        for parameter in self._learning:
            parameter.requires_grad_(parameter not in frozen)
            if parameter in frozen:
                parameter.grad = None  # with one left over, the optimizer would go on moving it

    def _alpha_now(self, stage: Stage, step: int) -> float:
        if not isinstance(stage.alpha, tuple):
            return self._alpha if stage.alpha is None else stage.alpha
        first, last = stage.alpha
        share = min(step / stage.steps, 1.0)
        return (1 - share) * first + share * last  # exact at both ends

    def _check(self) -> None:
        if not self.stages:
            raise ValueError("`stages` must hold at least one stage; got none. Use the distiller alone.")
        for stage in self.stages:
            unknown = [name for name in stage.features or () if name not in self._feature_weights]
            if unknown:
                raise ValueError(
                    "`features` of a stage must be names of the teacher's modules that the distiller "
                    f"matches, {list(self._feature_weights)}; got {unknown}. Match them in the Distiller."
                )


def _frozen(student: nn.Module, patterns: Patterns) -> set[nn.Module]:
    """The modules whose names match, with all that is inside of them."""
    found: set[nn.Module] = set()
    for pattern in as_patterns(patterns):
        named = [module for name, module in student.named_modules() if matches(name, (pattern,))]
        if not named:
            names = ", ".join(name for name, _ in list(student.named_modules())[1:9])
            raise ValueError(
                f"`freeze`: the pattern {pattern!r} must match the name of a module of the student, and "
                f"matches none. The names begin with: {names}."
            )
        found.update(inside for module in named for inside in module.modules())
    return found
