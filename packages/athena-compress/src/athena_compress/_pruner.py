"""The pruner: prunes a model on a schedule while it trains, and keeps pruned what was pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from athena_compress._call import call, several
from athena_compress._copied import check_sizes
from athena_compress._dependencies import dependencies
from athena_compress._importance import Importance, Scope
from athena_compress._masks import parse_pattern
from athena_compress._modes import evaluating
from athena_compress._prunable import prunable_weights
from athena_compress._pruner_layers import LayerStrategy
from athena_compress._pruner_masks import MaskStrategy
from athena_compress._pruner_options import (
    as_importance,
    as_schedule,
    check_optimizer,
    check_round_to,
    choose_scope,
    is_structured,
)
from athena_compress._pruner_strategy import Choices, PruningSummary, Strategy
from athena_compress._pruner_structure import StructureStrategy, removable_groups
from athena_compress._select import Patterns, as_patterns
from athena_compress._sparsity_schedule import SparsitySchedule

_SAVED = ("step", "sparsity", "what", "importance", "pruned")


class Pruner:
    r"""Prunes weights, or whole units of structure, step by step to the share of a schedule.

    After step :math:`t` of the optimizer the share :math:`s_t` of the schedule is pruned: those of the
    lowest importance. What was pruned never returns. Weights are set to 0 under a mask, and the model
    keeps its shape; channels, neurons, heads and layers are removed, and the model gets smaller.

    ::

        pruner = Pruner(
            model, importance="movement", schedule=CubicSchedule(0.9, steps=1000), optimizer=optimizer
        )
        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
            pruner.step()
        print(pruner.finish())

    With ``optimizer``, hooks around its step show the importance the gradients and mask them before it,
    and zero pruned weights and the optimizer's state for them after it, so that neither momentum nor
    weight decay revives one: any state of the parameter's shape, as moments and slow weights. Without,
    ``pruner.step()`` zeroes the weights alone, and an importance that needs gradients sees them in
    ``pruner.observe()``, between ``backward()`` and ``optimizer.step()``. Call
    ``pruner.mask_gradients()`` before clipping gradients by their norm. An optimizer that computes
    gradients in a closure needs ``pruner.observe()`` inside of it. Pass the outermost of wrapped optimizers.

    To prune without training, use a number as the schedule, and one ``pruner.step()``.

    Args:
        model: any module; changed in place.
        example_inputs: what the model is called with, a tensor, a tuple or a mapping; for structure alone:
            how units hang together is found by following that call.
        what: ``"weights"``; ``"2:4"`` or another n:m, along the axis that a product sums over; any of
            ``"channels"``, ``"heads"`` and ``"neurons"``; or ``"layers"``, residual ones, which go by how
            little they change what passes through them on the example, whatever ``importance`` is.
        importance: the name of a component of the kind ``importance``, or an `Importance`.
        schedule: the share pruned after each step, of the weights or of the units of each kind; a number
            for all at the first step. It may be left out for n:m.
        scope: ``"global"`` compares all weights, or all groups of units of one kind; ``"local"`` prunes
            the same share of each weight or group; ``"row"`` of the weights of each output. None: as the
            importance says; units are never compared by row.
        normalize: divide scores by their mean size in each weight or group, so that a global comparison
            is fair to groups of several sizes. None: for structure, not for weights.
        round_to: channels and neurons kept are rounded up to a multiple of it, as far as there are.
        optimizer: the one that trains the model.
        include: shell patterns of the names of layers to prune.
        skip: the same, of those to leave as they are. A group is left if any of its layers is.

    A global comparison of plain magnitudes can starve a layer whose weights are small; at high shares
    use ``scope="local"``, or the importance ``"lamp"``, which is made for it.
    A unit's score is the sum of the scores of its elements in all weights that it is a part of. At least
    one weight of each tensor and one unit of each group is kept, which a warning and the summary say.
    Counts are exact: ``round(share * total)`` of what is compared, unless ``round_to`` keeps more.

    To resume: make the model at its full size, its optimizer and the pruner; load the pruner's state,
    which removes again what was removed; then the model's and the optimizer's. Weights that were
    masked need no order.

    Raises ValueError for options that do not fit, patterns that match nothing, weights that are NaN or
    infinite; AthenaError for an unknown importance; RuntimeError for an importance that was shown no data.
    Source: Athena's own loop; the methods are in its parts. Departs from it: no.

    >>> model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> pruner = Pruner(model, schedule=0.5)
    >>> pruner.step()
    >>> pruner.sparsity
    0.5
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        what: str | Sequence[str] = "weights",
        importance: str | Importance = "magnitude",
        schedule: SparsitySchedule | float | None = None,
        scope: Scope | None = None,
        normalize: bool | None = None,
        round_to: int = 1,
        optimizer: Optimizer | None = None,
        include: Patterns = ("*",),
        skip: Patterns = (),
    ) -> None:
        check_sizes(model)
        self.model = model
        self.what = as_patterns(what)
        self.structured = is_structured(self.what)
        self.importance = as_importance(importance)
        self.schedule = as_schedule(schedule, self.what[0])
        self.steps = 0
        self._applied = 0.0
        self._finished = False
        choices = Choices(
            self.importance,
            choose_scope(scope, self.importance, self.what),
            self.structured if normalize is None else normalize,
            optimizer,
        )
        check_round_to(round_to, self.what)
        check_optimizer(optimizer, model)
        self.strategy = self._strategy(example_inputs, choices, round_to, include, skip)
        self._hooks: list[RemovableHandle] = []
        if optimizer is not None:
            self._hooks = [
                optimizer.register_step_pre_hook(self._before_step),
                optimizer.register_step_post_hook(self._after_step),
            ]

    def _strategy(
        self, example_inputs: Any, choices: Choices, round_to: int, include: Patterns, skip: Patterns
    ) -> Strategy:
        if not self.structured:
            weights = prunable_weights(self.model, include=include, skip=skip)
            return MaskStrategy(weights, choices, parse_pattern(self.what[0]))
        if example_inputs is None:
            raise ValueError(
                f"`example_inputs` must be what the model is called with to prune {', '.join(self.what)}; "
                "got none. Pass a tensor, or a tuple of arguments."
            )
        if self.what == ("layers",):
            return LayerStrategy(self.model, example_inputs, choices, include=include, skip=skip)
        graph = dependencies(self.model, example_inputs)
        names = removable_groups(graph, self.what, include=include, skip=skip)
        return StructureStrategy(graph, names, choices, round_to=round_to)

    @property
    def sparsity(self) -> float:
        """The share that is pruned now, of the weights or units that may be."""
        return self.summary().sparsity

    @property
    def masks(self) -> dict[str, Tensor]:
        """Masks by the weight's name, True where kept; none for structure."""
        return dict(self.strategy.masks) if isinstance(self.strategy, MaskStrategy) else {}

    def step(self) -> None:
        """Count a step of the optimizer, and prune to the schedule's share; call it after each."""
        if self._finished:
            raise RuntimeError("`step` must be called before `finish()`. Make another Pruner to prune more.")
        wanted = self.schedule(self.steps + 1)
        if wanted > self._applied:
            self.strategy.prune(wanted)
            self.importance.after_pruning()
            self._applied = wanted
        elif not self._hooks:
            self.strategy.enforce()
        self.steps += 1

    def observe(self) -> None:
        """Show the importance the gradients that ``backward()`` left. Hooks do so with an ``optimizer``.

        It may be called several times before a step, for the gradient of a batch each.
        """
        if not self.importance.needs_gradients or self._applied >= self.schedule.final:
            return
        for name, parameter in self.strategy.parameters().items():
            if (gradient := parameter.grad) is not None:
                dense = gradient if gradient.layout == torch.strided else gradient.to_dense()
                self.importance.observe(name, parameter, dense)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Any]) -> None:
        """Show the importance what each layer is given, in a pass over batches in evaluation mode.

        Args:
            batches: inputs of the model: a tensor, a sequence of positional or a mapping of named ones. Where
                several processes train one model, the same in all, so that they prune alike.

        Raises ValueError if there is no batch.
        """
        hooks = [
            weight.layer.register_forward_pre_hook(self._recorder(name), with_kwargs=True)
            for name, weight in self.strategy.weights().items()
        ]
        count = 0
        try:
            with evaluating(self.model):
                for batch in several(batches):
                    call(self.model, batch)
                    count += 1
        finally:
            for hook in hooks:
                hook.remove()
        if not count:
            raise ValueError(
                "`batches` must hold at least one batch; got none. A generator can be read once."
            )

    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights, as before clipping by norm."""
        self.strategy.mask_gradients()

    def enforce(self) -> None:
        """Zero pruned weights and the optimizer's state for them, as after loading or averaging weights."""
        self.strategy.enforce()

    def summary(self) -> PruningSummary:
        """What is kept of each part now."""
        return PruningSummary(tuple(self.strategy.parts()), tuple(self.strategy.notes))

    def finish(self) -> PruningSummary:
        """Make the masks permanent: zeros stand in the weights, hooks are gone. Says what is kept.

        Further training would revive weights; to fine-tune, go on with ``step()`` and finish after it.
        """
        self.strategy.enforce()
        for hook in self._hooks:
            hook.remove()
        self._finished = True
        return self.summary()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives from which pruning goes on exactly; options are not among them."""
        importance = self.importance.state_dict()
        pruned = self.strategy.state_dict()
        values = (self.steps, self._applied, list(self.what), importance, pruned)
        return dict(zip(_SAVED, values, strict=True))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state. Raises ValueError, before anything changes, if it does not fit."""
        if missing := [name for name in _SAVED if name not in state_dict]:
            raise ValueError(
                f"`state_dict` must be a Pruner's; {missing} are missing. Pass what `state_dict()` returned."
            )
        if tuple(state_dict["what"]) != self.what:
            raise ValueError(
                f"`state_dict` must be of a pruner of {self.what}; got one of {tuple(state_dict['what'])}. "
                "Make the pruner with the same `what`."
            )
        self.strategy.load_state_dict(state_dict["pruned"])
        self.importance.load_state_dict(state_dict["importance"])
        self.steps = state_dict["step"]
        self._applied = state_dict["sparsity"]

    def _before_step(self, *_: object) -> None:
        self.observe()
        self.mask_gradients()

    def _after_step(self, *_: object) -> None:
        self.strategy.enforce()

    def _recorder(self, name: str) -> Callable[..., None]:
        def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.importance.observe_inputs(name, layer, args[0] if args else next(iter(kwargs.values())))

        return record
