"""Meta-learning with implicit gradients."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_meta._conjugate_gradient import conjugate_gradient
from athena_meta._descent import Descent, checked_rate
from athena_meta._gradient_learner import GradientLearner, Loss
from athena_meta._inner_loop import inner_step
from athena_meta._inner_update import InnerUpdate, Tensors
from athena_meta._modes import Mode
from athena_meta._tasks import Tasks


class ImplicitMAML(GradientLearner):
    r"""MAML whose gradient needs the end of the inner loop alone, not its way there.

    .. math::
        \phi^*_i = \arg\min_\phi L^{\mathrm{support}}_i(\phi) + \frac{\lambda}{2} \|\phi - \theta\|^2, \qquad
        \frac{d L^{\mathrm{query}}_i(\phi^*_i)}{d\theta} = \Big(I + \frac{1}{\lambda}
        \nabla^2 L^{\mathrm{support}}_i(\phi^*_i)\Big)^{-1} \nabla L^{\mathrm{query}}_i(\phi^*_i)

    The minimum is approached by ``inner_steps`` steps, the inverse by ``solver_steps`` of conjugate gradients
    on Hessian-vector products. Memory does not grow with either. Parameters :math:`\psi` that are not adapted
    have the gradient :math:`\partial_\psi L^{\mathrm{query}}_i
    - \partial_\psi (\nabla_\phi L^{\mathrm{support}}_i \cdot v_i) / \lambda`, with :math:`v_i` the above.
    Rates that an inner update learns have none: the minimum does not depend on them.

    The gradient is right as far as :math:`\phi^*` is reached; more steps bring it nearer. Where the inner
    objective is not convex at its end, the solver stops short of the inverse.

    Args:
        network: any module of one input.
        strength: :math:`\lambda`, above 0. Larger keeps :math:`\phi` nearer to :math:`\theta`.
        inner_lr: of plain descent; it must be below :math:`2 / (\lambda + h)` to converge, with :math:`h` the
            largest curvature of the support loss.
        inner_steps: of the inner loop.
        solver_steps: of conjugate gradients; 0 takes the inverse for the identity.
        loss: of the outputs and targets of one task, their mean.
        transductive: see :class:`GradientLearner`, as of all below. A network with batch norm needs it.
        inner: another inner update, in the place of plain descent with ``inner_lr``.
        adapted: patterns of names of the parameters that are adapted.
        mode: "auto", "vmap" or "loop".
        chunk_size: tasks in one vmap, at most.
        memory_budget: in bytes, in the place of ``chunk_size``.

    Raises what :class:`MAML` raises; ValueError for a strength that is not above 0 or negative steps.
    Source: Rajeswaran et al. 2019, arXiv:1909.04630, eq. 3, 6 and algorithms 1 and 2. Departs from it: the
    solver starts from the gradient, its solution for :math:`\lambda \to \infty`; the loss is the mean over
    tasks.

    >>> from athena_meta import Episodes
    >>> meta = ImplicitMAML(nn.Linear(3, 2), strength=2.0, inner_lr=0.1, inner_steps=16)
    >>> x, y = torch.randn(4, 6, 3), torch.arange(6).expand(4, 6) % 2
    >>> meta.loss(Episodes(x, y, x, y)).backward()
    >>> meta.network.weight.grad.shape
    torch.Size([2, 3])
    """

    EXPLICIT = True

    def __init__(
        self,
        network: nn.Module,
        *,
        strength: float = 2.0,
        inner_lr: float = 0.01,
        inner_steps: int = 16,
        solver_steps: int = 5,
        loss: Loss = F.cross_entropy,
        transductive: bool | None = None,
        inner: InnerUpdate | None = None,
        adapted: Sequence[str] = ("*",),
        mode: Mode = "auto",
        chunk_size: int | None = None,
        memory_budget: int | None = None,
    ) -> None:
        if not (isfinite(strength) and strength > 0):
            raise ValueError(
                f"`strength` must be finite and above 0; got {strength}. The paper has 0.5 to 2."
            )
        if solver_steps < 0:
            raise ValueError(f"`solver_steps` must be at least 0; got {solver_steps}.")
        super().__init__(
            network,
            inner=Descent(checked_rate("inner_lr", inner_lr)) if inner is None else inner,
            inner_steps=inner_steps,
            loss=loss,
            transductive=transductive,
            adapted=adapted,
            mode=mode,
            chunk_size=chunk_size,
            memory_budget=memory_budget,
        )
        self.strength, self.solver_steps = strength, solver_steps

    def trajectory(self, tasks: Tasks, steps: int | None = None) -> Iterator[Tensors]:
        """The adapted parameters before and after each step, which descends the proximal objective."""
        start = parameters = tasks.initial()
        state = self.inner.start(start)

        def update(
            parameters: Tensors, gradients: Tensors, state: Tensors, step: int
        ) -> tuple[Tensors, Tensors]:
            pulled = {
                name: gradient + self.strength * (parameters[name] - start[name])
                for name, gradient in gradients.items()
            }
            return self.inner(parameters, pulled, state, step)

        yield parameters
        for step in range(self.inner_steps if steps is None else steps):
            parameters, state = inner_step(tasks, update, parameters, state, step)
            yield parameters

    def task_losses(self, tasks: Tasks) -> Tensor:
        return tasks.query_losses(self._end(tasks), step=self.inner_steps)

    def losses_and_gradients(self, tasks: Tasks) -> tuple[Tensor, list[Tensor | None]]:
        end = {name: value.detach().requires_grad_() for name, value in self._end(tasks).items()}
        tasks = tasks.repeated({}, order=2)
        losses = tasks.query_losses(end, step=self.inner_steps)
        direct = _gradients(losses.sum(), end, retain_graph=True)
        support = tasks.support_losses(end, step=self.inner_steps).sum()
        slopes = _gradients(support, end, create_graph=True)
        implicit = self._solved(end, direct, slopes, count=tasks.count)

        others = tasks.trainable()
        value = losses.sum() - _product(slopes, implicit) / self.strength
        found = {id(others[name]): gradient for name, gradient in _gradients(value, others).items()}
        for name, vectors in implicit.items():
            found[id(tasks.adapted[name])] = vectors.sum(0) if tasks.stacked else vectors
        return losses.detach(), [found.get(id(parameter)) for parameter in self.trained()]

    def _end(self, tasks: Tasks) -> Tensors:
        return deque(self.trajectory(tasks.repeated({}, order=0)), maxlen=1).pop()

    def _solved(self, end: Tensors, direct: Tensors, slopes: Tensors, *, count: int) -> Tensors:
        r""":math:`v = (I + \nabla^2 L / \lambda)^{-1} g` of each of ``count`` tasks."""

        def flat(tensors: Tensors) -> Tensor:
            return torch.cat([value.reshape(count, -1) for value in tensors.values()], dim=1)

        def whole(vectors: Tensor) -> Tensors:
            parts = vectors.split([value.numel() // count for value in end.values()], dim=1)
            return {name: part.reshape(end[name].shape) for name, part in zip(end, parts, strict=True)}

        def product(vectors: Tensor) -> Tensor:
            curved = _gradients(_product(slopes, whole(vectors)), end, retain_graph=True)
            return vectors + flat(curved) / self.strength

        return whole(conjugate_gradient(product, flat(direct), steps=self.solver_steps))


def _product(slopes: Tensors, vectors: Tensors) -> Tensor:
    """The sum over all tasks of the inner products; the tasks being independent, its gradients are theirs."""
    return torch.stack([(slopes[name] * vector).sum() for name, vector in vectors.items()]).sum()


def _gradients(
    value: Tensor, at: Tensors, *, retain_graph: bool | None = None, create_graph: bool = False
) -> Tensors:
    """Gradients by name, zeros where ``value`` does not depend on a tensor."""
    if not value.requires_grad or not at:
        return {name: torch.zeros_like(tensor) for name, tensor in at.items()}
    found = torch.autograd.grad(
        value,
        list(at.values()),
        retain_graph=retain_graph,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(at, found, strict=True))
