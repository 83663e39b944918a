"""Almost no inner loop: MAML that adapts the head alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from athena_meta._maml import MAML


class ANIL(MAML):
    r"""MAML whose inner loop changes the head alone; the body is trained by the outer loss.

    With :math:`\theta = (\theta_{\mathrm{body}}, \theta_{\mathrm{head}})`, a task has
    :math:`\phi = (\theta_{\mathrm{body}},
    \theta_{\mathrm{head}} - \alpha \sum_t \nabla_{\mathrm{head}} L^{\mathrm{support}})`.

    Args:
        network: any module of one input.
        head: patterns of the names of the head's parameters; None: those of the last module that has any.
        options: the others of :class:`MAML`, without ``adapted``.

    Raises what :class:`MAML` raises.
    Source: Raghu et al. 2020, arXiv:1909.09157, section 4. Departs from it: no.

    >>> network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> [*ANIL(network, inner_lr=0.1).adapted_parameters()]
    ['2.weight', '2.bias']
    """

    def __init__(
        self, network: nn.Module, *, head: str | Sequence[str] | None = None, **options: Any
    ) -> None:
        super().__init__(network, adapted=_last(network) if head is None else head, **options)


def _last(network: nn.Module) -> tuple[str, ...]:
    """The names of the parameters of the last module that has parameters of its own."""
    names: tuple[str, ...] = ()
    for prefix, module in network.named_modules():
        own = tuple(name for name, _ in module.named_parameters(prefix, recurse=False))
        names = own or names
    return names
