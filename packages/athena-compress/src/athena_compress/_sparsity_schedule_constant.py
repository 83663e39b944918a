"""One-shot pruning: all of it at one step."""

from __future__ import annotations

from athena_compress._sparsity_schedule import SparsitySchedule


class ConstantSchedule(SparsitySchedule):
    r"""One-shot: nothing before ``begin``, all of ``final`` from there on.

    .. math:: s_t = s_f \cdot [t \ge b]

    Args:
        final: share pruned, in [0, 1).
        begin: the step, 1 after the optimizer's first, from which on it is pruned. At the default the
            first ``pruner.step()`` prunes.

    Raises ValueError and TypeError as `SparsitySchedule` does.
    Source: the magnitude pruning of Han et al. 2015, arXiv:1506.02626, section 3. Departs from it: no.

    >>> schedule = ConstantSchedule(0.5)
    >>> schedule(0), schedule(1), schedule(100)
    (0.0, 0.5, 0.5)
    """

    def __init__(self, final: float, *, begin: int = 1) -> None:
        super().__init__(final, steps=0, begin=begin)

    def rise(self, progress: float) -> float:  # noqa: ARG002
        return 1.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.final}, begin={self.begin})"
