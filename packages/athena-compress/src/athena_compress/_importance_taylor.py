"""Taylor importance: what the loss would change by, to first order."""

from __future__ import annotations

from torch import Tensor, nn

from athena_compress._importance import Importance, precise


class Taylor(Importance):
    r"""The squared change of the loss, to first order, if the weight were 0.

    .. math:: I(w) = \frac1T \sum_{t=1}^{T} \Big(w_t\, \frac{\partial L_t}{\partial w_t}\Big)^2

    averaged over the :math:`T` batches observed since something was last pruned. A unit's score is the
    sum over its elements. For one batch the order of single weights is that of :math:`|w\, \partial_w L|`.

    Source: Molchanov et al. 2019, arXiv:1906.10771, section 3, first-order criterion, with a unit's
    contribution the sum of those of its parameters. Departs from it: no.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> importance = Taylor()
    >>> importance.observe("weight", weight, torch.tensor([3.0, 0.5]))
    >>> importance.scores("weight", weight)
    tensor([9., 1.])
    """

    needs_gradients = True
    counts_vectors = True

    def observe(self, name: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        self.gather(name, (precise(parameter) * precise(gradient)).square())

    def scores(self, name: str, parameter: nn.Parameter) -> Tensor:
        return (self.seen(name, parameter) / self.counts[name]).expand(parameter.shape)

    def after_pruning(self) -> None:
        self.gathered.clear()
        self.counts.clear()
