"""Episodes: the tasks of one batch, each with a support set to adapt to and a query set to be judged by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from athena_meta._labels import row_ranks


class Episodes(NamedTuple):
    r"""A batch of tasks; the first axis of every tensor is the task.

    Task :math:`i` adapts to its support set :math:`(x_s, y_s)_i` and is judged on its query set
    :math:`(x_q, y_q)_i`. Being a tuple of tensors, it goes through data loaders and pinning as it is.

    Shape:
        ``support_x (tasks, n_support, ...)``, ``support_y (tasks, n_support)`` or, for regression,
        ``(tasks, n_support, outputs)``; ``query_x`` and ``query_y`` likewise. ``classes (tasks, n_way)``:
        which class of the data set each label stands for, where there is a data set.

    Source: Vinyals et al. 2016, arXiv:1606.04080, section 2.2. Departs from it: no.

    >>> x, y = torch.randn(4, 6, 3), torch.arange(6).expand(4, 6) % 2
    >>> episodes = Episodes(x, y, x, y)
    >>> episodes.tasks, [part.tasks for part in episodes.split(3)]
    (4, [3, 1])
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    classes: Tensor | None = None

    def checked(self) -> Episodes:
        """Itself, once all parts are found to have as many tasks, and as many labels as examples.

        Raises ValueError naming the part that does not.

        >>> x = torch.zeros(2, 5, 3)
        >>> Episodes(x, torch.zeros(2, 5), x, torch.zeros(2, 5)).checked().tasks
        2
        """
        for side, x, y in (
            ("support", self.support_x, self.support_y),
            ("query", self.query_x, self.query_y),
        ):
            if min(x.ndim, y.ndim) < 2 or x.shape[:2] != y.shape[:2]:
                raise ValueError(
                    f"`{side}_y` must have one label an example, `{side}_x` (tasks, n, ...) and `{side}_y` "
                    f"(tasks, n, ...); got {tuple(x.shape)} and {tuple(y.shape)}. Add what is missing."
                )
        if len(self.query_x) != len(self.support_x):
            raise ValueError(
                f"`query_x` must have the tasks of `support_x`; got {len(self.query_x)} and "
                f"{len(self.support_x)} tasks. Stack both from the same episodes."
            )
        return self

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return len(self.support_x)

    def to(self, target: torch.device | str, *, non_blocking: bool = False) -> Episodes:
        """The same episodes on another device."""
        moved = (part if part is None else part.to(target, non_blocking=non_blocking) for part in self)
        return Episodes(*moved)  # type: ignore[arg-type]

    def take(self, start: int, stop: int) -> Episodes:
        """The tasks from ``start`` to before ``stop``."""
        return Episodes(*(part if part is None else part[start:stop] for part in self))  # type: ignore[arg-type]

    def split(self, tasks: int) -> Iterator[Episodes]:
        """Parts of so many tasks each, the last one perhaps smaller."""
        return (self.take(start, start + tasks) for start in range(0, self.tasks, tasks))

    def dense(self) -> Episodes:
        r"""Labels of each task as int64 ranks :math:`0 \ldots n-1` among the sorted labels of its support.

        Raises ValueError for a query label that the support set of its task lacks, naming both; for labels
        that are no whole numbers ``(tasks, n)``, and for an empty support set.

        >>> y = torch.tensor([[7, 3, 7], [3, 3, 9]])
        >>> dense = Episodes(y, y, y, y).dense()
        >>> dense.support_y.tolist()
        [[1, 0, 1], [0, 0, 1]]
        """
        for name, labels in (("support_y", self.support_y), ("query_y", self.query_y)):
            if labels.ndim != 2 or labels.is_floating_point():
                raise ValueError(
                    f"`{name}` must be whole numbers (tasks, n) to be labels of classes; got {labels.dtype} "
                    f"of shape {tuple(labels.shape)}. Targets of a regression have no dense form."
                )
        if not self.support_y.shape[1]:
            raise ValueError("`support_y` must have a label a task to be ranked by; got none. Add support.")
        ordered, ranks, support_y = row_ranks(self.support_y.long())
        asked = self.query_y.long().contiguous()
        # The place at which a label stands in the sorted support, if it stands there.
        place = torch.searchsorted(ordered, asked).clamp_(max=ordered.shape[1] - 1)
        missing = ordered.gather(1, place) != asked
        if missing.any():
            task, query = (int(index) for index in missing.nonzero()[0])
            raise ValueError(
                f"`query_y` must have labels of the support set; query {query} of task {task} has "
                f"{asked[task, query].item()}, its support set has {ordered[task].unique().tolist()}. "
                "Add support for it or leave the query out."
            )
        return self._replace(support_y=support_y, query_y=ranks.gather(1, place))
