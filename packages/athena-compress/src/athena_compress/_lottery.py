"""Lottery tickets: prune, rewind what is left to an early step, train again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from torch import nn
from torch.optim import Optimizer

from athena_compress._pruner import Pruner
from athena_compress._sparsity_schedule import check_whole
from athena_compress._sparsity_schedule_exponential import ExponentialSchedule


class LotteryTicket:
    r"""The weights of an early step, to which a pruned network is rewound.

    .. math:: \theta \leftarrow m \odot \theta_k

    where :math:`\theta_k` are the weights when the ticket was taken, at step :math:`k` (0 for those of
    the initialisation), and :math:`m` the masks of a `Pruner` of weights. Buffers, such as running
    statistics, and the optimizer's state go back to that step as well; a learning-rate schedule is yours to
    put back.

    Args:
        model: whose state is copied.
        optimizer: whose state is copied; an optimizer that took no step yet is one without moments.

    Source: Frankle & Carbin 2019, arXiv:1803.03635, section 1, step 4; rewinding to step k is Frankle et
    al. 2020, arXiv:1912.05671, section 2. Departs from it: no.

    >>> layer = nn.Linear(2, 1)
    >>> start = layer.weight.detach().clone()
    >>> ticket = LotteryTicket(layer)
    >>> layer.weight.data.copy_(2 * start)[0, 0] = 0  # training makes the first weight small
    >>> pruner = Pruner(layer, schedule=0.5)
    >>> pruner.step()
    >>> ticket.rewind(pruner)
    >>> bool(layer.weight[0, 0] == 0), bool(layer.weight[0, 1] == start[0, 1])
    (True, True)
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | None = None) -> None:
        self.model = model
        self.optimizer = optimizer
        self._model_state: dict[str, Any] = deepcopy(model.state_dict())
        self._optimizer_state = None if optimizer is None else deepcopy(optimizer.state_dict())

    def rewind(self, pruner: Pruner | None = None) -> None:
        """Put weights, buffers and optimizer back, and prune again what the pruner's masks prune.

        Raises ValueError for a pruner of structure, which has no masks.
        """
        if pruner is not None and pruner.structured:
            raise ValueError(
                f"`pruner` must be one of weights, whose masks a ticket keeps; got one of {pruner.what}. "
                "Pass `what='weights'` to the Pruner."
            )
        self.model.load_state_dict(self._model_state)
        if self.optimizer is not None:
            self.optimizer.load_state_dict(deepcopy(self._optimizer_state or {}))
        if pruner is not None:
            pruner.enforce()

    def state_dict(self) -> dict[str, Any]:
        """The weights and the optimizer's state of the early step."""
        return {"model": deepcopy(self._model_state), "optimizer": deepcopy(self._optimizer_state)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take another ticket's weights. Raises ValueError if the names differ from the model's."""
        if set(state_dict.get("model", ())) != set(self._model_state):
            raise ValueError(
                "`state_dict` must be a ticket of this model, with the same names of weights; got "
                f"{sorted(state_dict.get('model', ()))[:4]}. Make the ticket with the model it was taken of."
            )
        self._model_state = deepcopy(state_dict["model"])
        self._optimizer_state = deepcopy(state_dict["optimizer"])


def lottery_rounds(
    ticket: LotteryTicket, train: Callable[[], Any], *, final: float, rounds: int, **options: Any
) -> Iterator[Pruner]:
    r"""Iterative magnitude pruning: train, prune a share of what is left, rewind, and again.

    .. math:: 1 - s_r = (1 - s_f)^{r / n}

    is kept after round :math:`r` of :math:`n`. After each round it yields the pruner, whose masks the
    rewound model has; train that once more to see what the ticket is worth.

    Args:
        ticket: where to rewind to. Its optimizer gets hooks that keep the masks while it trains, until the
            pruner's ``finish()``.
        train: trains ``ticket.model`` from that step on.
        final: :math:`s_f`, the share pruned after the last round.
        rounds: :math:`n`.
        options: further ones of `Pruner`, such as ``importance``, ``scope``, ``include`` and ``skip``.

    Raises ValueError for options outside their ranges and a ticket without an optimizer.
    Source: Frankle & Carbin 2019, arXiv:1803.03635, section 1, iterative pruning; magnitudes of all layers
    are compared together, as in section 4, unless ``scope="local"``. Departs from it: no.

    >>> import torch
    >>> model = nn.Linear(8, 2)
    >>> ticket = LotteryTicket(model, torch.optim.SGD(model.parameters(), lr=0.1))
    >>> for pruner in lottery_rounds(ticket, lambda: None, final=0.75, rounds=2):
    ...     print(pruner.sparsity)
    0.5
    0.75
    """
    check_whole("rounds", rounds, 1)
    if ticket.optimizer is None:
        raise ValueError(
            "`ticket` must have an optimizer, whose steps keep the masks; got none. Give LotteryTicket one."
        )
    schedule = ExponentialSchedule(final, steps=rounds)
    return _rounds(
        ticket, train, rounds, Pruner(ticket.model, schedule=schedule, optimizer=ticket.optimizer, **options)
    )


def _rounds(ticket: LotteryTicket, train: Callable[[], Any], rounds: int, pruner: Pruner) -> Iterator[Pruner]:
    for _ in range(rounds):
        train()
        pruner.step()
        ticket.rewind(pruner)
        yield pruner
