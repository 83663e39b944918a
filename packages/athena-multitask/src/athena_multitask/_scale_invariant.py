"""Scale-invariant weighting: logarithms, or the geometric mean, of the losses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import Tensor

from athena_multitask._task_weighting import Rows, TaskWeighting


class ScaleInvariant(TaskWeighting):
    r"""The sum of the losses' logarithms, or their geometric mean: no unit of a loss matters.

    .. math:: L = \sum_i \log L_i, \quad w_i = \frac{1}{L_i} \qquad \text{or} \qquad
        L = \Bigl(\prod_i L_i\Bigr)^{1/n}, \quad w_i = \frac{L}{n L_i}

    over the tasks that are present. Their directions are the same; the length of the second is of the scale
    of the losses, and falls with them.

    Args:
        tasks: see `TaskWeighting`.
        form: ``"log"`` or ``"geometric"``.

    Shape: losses ``()``, the result ``()``.

    Raises ValueError for another form, and in use for a loss that is not positive; else see `TaskWeighting`.

    Source: the baseline "scale-invariant" of Navon et al. 2022, arXiv:2202.01017 (log); Chennupati et al.
    2019, MultiNet++, arXiv:1904.08492 (geometric). Departs from it: no.

    >>> import torch
    >>> losses = {"depth": torch.tensor(100.0), "segment": torch.tensor(0.01)}
    >>> weighting = ScaleInvariant(losses, form="geometric")
    >>> weighting(losses), weighting.weights
    (tensor(1.), tensor([5.0000e-03, 5.0000e+01]))
    """

    domain = "positive"

    def __init__(self, tasks: Iterable[str], *, form: Literal["log", "geometric"] = "log") -> None:
        super().__init__(tasks)
        if form not in ("log", "geometric"):
            raise ValueError(f'`form` must be "log" or "geometric"; got {form!r}. Take "log".')
        self.form = form

    def combine(self, losses: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:  # noqa: ARG002 (of those present)
        """The loss, and its derivatives."""
        logs = losses.log()
        if self.form == "log":
            return logs.sum(), 1 / losses.detach()
        mean = logs.mean().exp()  # of the logarithms: the product would leave the range of floats
        return mean, mean.detach() / len(losses) / losses.detach()
