"""Frozen features: of a trained model only the last layers go on learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import nn

from athena_multitask._fine_tuning import fine_tuning
from athena_multitask._fresh import named_parts


class FrozenFeatures(nn.Module):
    """A copy of a model of which only named parts are trained.

    The rest takes no gradient and stays in eval mode whatever `train` says.

    Args:
        model: any module, trained.
        trained: names of the submodules to train.
        fresh: names of those whose weights are drawn anew.

    Shape: as of the model.

    Raises ValueError for no name or an unknown one.

    Source: Rusu et al. 2016, arXiv:1606.04671, its baseline 2. Departs from it: no.

    >>> frozen = FrozenFeatures(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), trained=["1"])
    >>> [parameter.requires_grad for parameter in frozen.train().parameters()]
    [False, False, True, True]
    >>> [part.training for part in frozen.model]
    [False, True]
    """

    def __init__(self, model: nn.Module, *, trained: Sequence[str], fresh: Sequence[str] = ()) -> None:
        super().__init__()
        if not trained:
            raise ValueError("`trained` must name a submodule; got none. Name the last layer.")
        named_parts(model, trained, "trained")
        self.model = fine_tuning(model, fresh=fresh)
        self._trained = tuple(trained)
        self.requires_grad_(True)
        self.train(model.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.model.eval()
        for part in named_parts(self.model, self._trained, "trained"):
            part.train(mode)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        super().requires_grad_(False)
        for part in named_parts(self.model, self._trained, "trained"):
            part.requires_grad_(requires_grad)
        return self

    def parameters_to_train(self) -> list[nn.Parameter]:
        """Parameters of the trained parts."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, *args: Any, **options: Any) -> Any:
        return self.model(*args, **options)
