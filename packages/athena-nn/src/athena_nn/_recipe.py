"""What the recipes of this package have in common: options of a transformer, and the loop that trains it."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from athena_core import AthenaError, Configured, Recipe, Run, backend, component, create
from athena_nn._positions import Positions

Curve = tuple[list[int], list[float]]
#: What a recipe tells positions, where their signature names it.
TOLD = ("head_dim", "num_heads", "embed_dim", "max_length", "bidirectional")


class Data(Protocol):
    """Training data whose place is part of a run's state."""

    def draw(self) -> tuple[Tensor, ...]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


@dataclass(kw_only=True)
class TransformerRecipe(Recipe):
    """Base of recipes that train a transformer.

    Args:
        batch: rows a step.
        width: width of the model, a multiple of ``heads``.
        layers: transformer blocks.
        heads: attention heads of each.
        kv_heads: heads of keys and values, a divisor of ``heads``; null means as many.
        dropout: probability of dropping while training.
        drop_path: probability of leaving out the last block for a row while training; earlier ones
            have less.
        norm_first: whether norms stand before attention and feed-forward layers, or after their sums.
        qk_norm: whether queries and keys are normalised too.
        bias: whether projections have biases.
        checkpoint: whether each block is computed twice a step, to save memory.
        dtype: of matrix products; parameters stay float32.
        eval_every: steps between two evaluations on what is held out.
        optimizer: what updates the parameters; weight decay is for matrices alone.
        schedule: of the learning rate, once a step.
        positions: how the model knows the order of tokens.
        norm: keeps the stream between blocks at one scale.
        activation: of the feed-forward layers, 4 times as wide as the model; gated, 8/3 times.
    """

    batch: int = 16
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int | None = None
    dropout: float = 0.0
    drop_path: float = 0.0
    norm_first: bool = True
    qk_norm: bool = False
    bias: bool = False
    checkpoint: bool = False
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    eval_every: int = 100
    optimizer: Configured = component("optimizer", "adamw", lr=2e-3, weight_decay=0.1, max_norm=1.0)
    schedule: Configured = component(
        "schedule", "warmup-cosine", given=("total_steps",), warmup_steps=0.08, min_ratio=0.1
    )
    positions: Configured = component("positions", "rotary", given=TOLD)
    norm: Configured = component("norm", "rms")
    activation: Configured = component("activation", "swiglu")

    @abstractmethod
    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch that `Data.draw` gave, and further metrics of it: scalars in float32."""

    def check(self) -> None:
        """Raise AthenaError for an option outside its range."""
        self.check_at_least_1("steps", "batch", "width", "layers", "heads", "eval_every")
        if self.width % self.heads:
            raise AthenaError(f"`heads` must divide `width` = {self.width}; got {self.heads}.")
        if self.kv_heads is not None and (self.kv_heads < 1 or self.heads % self.kv_heads):
            raise AthenaError(f"`kv_heads` must divide `heads` = {self.heads}; got {self.kv_heads}.")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise AthenaError(f"`{name}` must lie in [0, 1); got {getattr(self, name)}.")

    def check_at_least_1(self, *names: str) -> None:
        """Raise AthenaError for the first of these options that is below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise AthenaError(f"`{name}` must be at least 1; got {getattr(self, name)}.")

    def stack_options(self, *, max_length: int, bidirectional: bool = False) -> dict[str, Any]:
        """Options of an `Encoder` or `Decoder`, with positions for so many tokens."""
        positions = self.positions.create(
            head_dim=self.width // self.heads,
            num_heads=self.heads,
            embed_dim=self.width,
            max_length=max_length,
            bidirectional=bidirectional,
        )
        return {
            "embed_dim": self.width,
            "num_layers": self.layers,
            "num_heads": self.heads,
            "ff_dim": self.ff_dim(),
            "max_length": max_length,
            "positions": positions,
            "embedding_scale": embedding_scale(positions, self.width),
            "num_kv_heads": self.kv_heads,
            "activation": self.activation.create,
            "norm": self.norm.create,
            "norm_first": self.norm_first,
            "qk_norm": self.norm.create if self.qk_norm else None,
            "bias": self.bias,
            "dropout": self.dropout,
            "drop_path": self.drop_path,
            "checkpoint": self.checkpoint,
        }

    def ff_dim(self) -> int:
        """4 times the width; with a gate 8/3 of it, as many parameters, rounded up to a multiple of 32."""
        if getattr(self.activation.create(), "gated", False):
            return -(-8 * self.width // 3 // 32) * 32
        return 4 * self.width

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def train(
        self,
        run: Run,
        model: nn.Module,
        data: Data,
        *,
        unit: str,
        units_per_step: int,
        evaluate: Callable[[], Mapping[str, float]],
    ) -> AbstractContextManager[None]:
        """Train for all steps, and log each; ``evaluate`` is asked in between, not after the last.

        Returns a context in which the model holds its `evaluation_weights`, as while ``evaluate`` is asked.
        """
        optimizer = self._make_optimizer(model)
        schedule = self.schedule.create(optimizer, total_steps=self.steps)
        steps = run.steps(
            self.steps,
            unit=unit,
            units_per_step=units_per_step,
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            data=data,
        )
        for step in steps:
            batch = tuple(part.to(run.device) for part in data.draw())
            optimizer.zero_grad()
            with backend(run.device).autocast(self.torch_dtype):
                loss, metrics = self.loss(model, batch)
            loss.backward()
            run.check_finite(step, model, loss)
            optimizer.step()
            schedule.step()
            logged = torch.stack((loss.detach(), *metrics.values())).tolist()  # one wait for the device
            values = dict(zip(("loss", *metrics), logged, strict=True))
            if step % self.eval_every == 0 and step < self.steps:
                with evaluation_weights(optimizer):
                    values |= evaluate()
            run.log(step, **values)
        return evaluation_weights(optimizer)

    def load_trained(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Give a built model the weights that its run evaluated last; ``state`` is that of `saved_run`."""
        model.load_state_dict(state["model"])
        optimizer = self._make_optimizer(model)
        if not hasattr(optimizer, "evaluation_weights"):
            return
        optimizer.load_state_dict(state["optimizer"])
        with evaluation_weights(optimizer):
            evaluated = deepcopy(model.state_dict())
        model.load_state_dict(evaluated)

    def _make_optimizer(self, model: nn.Module) -> Optimizer:
        return self.optimizer.create(create("param-groups", "decay-matrices", model))


def evaluation_weights(optimizer: Optimizer) -> AbstractContextManager[None]:
    """The optimizer's own context of this name, in which parameters hold what is to be evaluated, if any."""
    return getattr(optimizer, "evaluation_weights", nullcontext)()


def embedding_scale(positions: Positions, width: int) -> float:
    """The root of the width for positions that add vectors of unit size, as sinusoidal ones do; else 1.

    Embeddings are drawn so small that they would be drowned: a small `lm` with sinusoidal positions was
    at 4.7 bits per byte after 300 steps without the factor, and at 3.2 with it.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.4. Departs from it: not for other positions.

    >>> from athena_nn import LearnedPositions, SinusoidalPositions
    >>> embedding_scale(SinusoidalPositions(16), 16), embedding_scale(LearnedPositions(8, 16), 16)
    (4.0, 1.0)
    """
    first = torch.zeros(1, dtype=torch.long)
    added = positions.embed(torch.zeros(1, 1, width), first)
    return width**0.5 if added.square().mean() > 0.1 else 1.0


def curve(metrics: Path, name: str) -> Curve:
    """Steps and values of a metric, wherever ``metrics.jsonl`` has it."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]
