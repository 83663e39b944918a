"""Model-agnostic meta-learning."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from athena_meta._descent import Descent, checked_rate
from athena_meta._gradient_learner import GradientLearner, Loss
from athena_meta._inner_update import InnerUpdate, Tensors
from athena_meta._modes import Mode
from athena_meta._tasks import Tasks


class MAML(GradientLearner):
    r"""A start from which few gradient steps on a new task's support set do well on its query set.

    .. math::
        \phi_{i,0} = \theta, \quad
        \phi_{i,t+1} = \phi_{i,t} - \alpha \nabla L^{\mathrm{support}}_i(\phi_{i,t}), \qquad
        \min_\theta \frac{1}{n} \sum_i L^{\mathrm{query}}_i(\phi_{i,T})

    With ``first_order`` the inner gradients are constants of the outer derivative:
    :math:`\partial \phi_T / \partial \theta = I` for plain descent.

    Args:
        network: any module of one input.
        inner_lr: :math:`\alpha`, of plain descent.
        inner_steps: :math:`T`.
        first_order: see above.
        loss: of the outputs and targets of one task, their mean.
        transductive: see :class:`GradientLearner`, as of all below. A network with batch norm needs it.
        inner: another inner update, in the place of plain descent with ``inner_lr``.
        adapted: patterns of names of the parameters that are adapted.
        mode: "auto", "vmap" or "loop".
        chunk_size: tasks in one vmap, at most.
        memory_budget: in bytes, in the place of ``chunk_size``.
        checkpoint_steps: keep no graph of the inner steps, and do them twice.

    Raises ValueError for a negative rate or number of steps, for batch norm without ``transductive``, where
    no parameter is adapted or has a gradient, and for second order of a compiled network;
    athena_core.NotFinite, with the step and the task, for a loss that is not finite.
    Source: Finn et al. 2017, arXiv:1703.03400, algorithm 2. Departs from it: the loss is the mean over tasks,
    not their sum.

    >>> import torch
    >>> from athena_meta import Episodes
    >>> meta = MAML(nn.Linear(3, 2), inner_lr=0.1, inner_steps=2)
    >>> x, y = torch.randn(4, 6, 3), torch.arange(6).expand(4, 6) % 2
    >>> loss = meta.loss(Episodes(x, y, x, y))
    >>> loss.backward()
    >>> adapted = meta.adapt(x[0], ["cat", "dog", "cat", "dog", "cat", "dog"])
    >>> adapted.classes, adapted(x[0]).shape
    (('cat', 'dog'), torch.Size([6, 2]))
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 5,
        first_order: bool = False,
        loss: Loss = F.cross_entropy,
        transductive: bool | None = None,
        inner: InnerUpdate | None = None,
        adapted: Sequence[str] = ("*",),
        mode: Mode = "auto",
        chunk_size: int | None = None,
        memory_budget: int | None = None,
        checkpoint_steps: bool = False,
    ) -> None:
        super().__init__(
            network,
            inner=Descent(checked_rate("inner_lr", inner_lr)) if inner is None else inner,
            inner_steps=inner_steps,
            first_order=first_order,
            loss=loss,
            transductive=transductive,
            adapted=adapted,
            mode=mode,
            chunk_size=chunk_size,
            memory_budget=memory_budget,
            checkpoint_steps=checkpoint_steps,
        )

    def task_losses(self, tasks: Tasks) -> Tensor:
        adapted: Tensors = {}
        for adapted in self.trajectory(tasks):  # noqa: B007  the last one
            pass
        return tasks.query_losses(adapted, step=self.inner_steps)
