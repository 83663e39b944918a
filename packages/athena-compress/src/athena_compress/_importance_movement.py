"""Movement: weights that training moves away from zero matter."""

from __future__ import annotations

from torch import Tensor, nn

from athena_compress._importance import Importance, precise


class Movement(Importance):
    r"""Weights that move away from zero in training matter, however large they are.

    .. math:: I(w) = -\sum_t w_t\, \frac{\partial L}{\partial w_t}

    summed over the steps observed. Scores can be negative; dividing them by their mean size, as a `Pruner`
    of structure does, leaves their signs.

    Source: Sanh et al. 2020, arXiv:2005.07683, section 4: the accumulated score of hard movement
    pruning. Departs from it: the scores are no parameters with a learning rate of their own, which
    changes their scale alone; a weight that is pruned is set to 0 and stays, where the paper's may return.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> importance = Movement()
    >>> importance.observe("weight", weight, torch.tensor([-0.5, 0.5]))  # the first grows, the second shrinks
    >>> importance.scores("weight", weight)
    tensor([ 0.5000, -0.5000])
    """

    needs_gradients = True
    counts_vectors = True

    def observe(self, name: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        self.gather(name, -precise(parameter) * precise(gradient))

    def scores(self, name: str, parameter: nn.Parameter) -> Tensor:
        return self.seen(name, parameter).expand(parameter.shape)
