"""An inner optimizer: a pure update of parameters, so that it can be differentiated through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

Tensors = dict[str, Tensor]


class InnerUpdate(nn.Module, ABC):
    r"""One step of the inner loop, :math:`(\phi, s) \mapsto (\phi', s')`, as a pure function.

    It changes no argument in place, so that autograd can go through it. What of it is to be meta-learned
    (rates) are its parameters, which the learner's ``parameters()`` and ``state_dict()`` hold.

    >>> import torch
    >>> class SignDescent(InnerUpdate):
    ...     def start(self, parameters):
    ...         return {}
    ...
    ...     def forward(self, parameters, gradients, state, step):
    ...         moved = {name: value - 0.1 * gradients[name].sign() for name, value in parameters.items()}
    ...         return moved, state
    >>> SignDescent()({"weight": torch.ones(2)}, {"weight": torch.tensor([5.0, -3.0])}, {}, 0)[0]
    {'weight': tensor([0.9000, 1.1000])}
    """

    def prepare(self, parameters: Mapping[str, Tensor], *, steps: int) -> None:
        """Called once, with the learner's adapted parameters by name and its number of inner steps.

        An update with a rate a parameter or a step makes its own parameters here; others have nothing to do.
        """

    @abstractmethod
    def start(self, parameters: Tensors) -> Tensors:
        """The state before the first step, such as zeros for a momentum; empty for plain descent.

        Its tensors have the first axis of ``parameters``, the task, where these have one.
        """

    @abstractmethod
    def forward(
        self, parameters: Tensors, gradients: Tensors, state: Tensors, step: int
    ) -> tuple[Tensors, Tensors]:
        """Parameters and state after step number ``step``, the first being 0."""


def undotted(name: str) -> str:
    """A name as that of a parameter or buffer: without dots, which torch does not take.

    >>> undotted("body.0.weight")
    'body/0/weight'
    """
    return name.replace(".", "/")
