"""Solvers of the exact balancers alone, beside those of TorchJD, from a Gramian to weights.

Both start cold, from the same float32 Gramian of drawn gradients. TorchJD's Nash-MTL takes gradients, few
here, and states its problem to cvxpy once, which is not timed; its solver starts from its first guess in each
call. Ours has no warm start. ``error`` is how far the two directions are apart, ``value`` how much
longer TorchJD's MGDA is, in shares of ours. The bar is a ratio of 10, MGDA has none. Run it with
``OMP_NUM_THREADS=1 --threads 1``: for matrices so small, a second thread of NumPy's costs more than it does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchjd import aggregation

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_multitask._cagrad import cagrad_weights
from athena_multitask._mgda import mgda_weights
from athena_multitask._nash_mtl import nash_weights
from athena_multitask._upgrad import upgrad_weights

C = 0.4
CALLS = 5


def drawn(tasks: int, kind: str) -> Tensor:
    """Gradients: of many parameters, nearly at right angles; of few, in strong conflict; or dependent."""
    parameters = {"many parameters": 25 * tasks, "conflict": 2 * tasks, "dependent": tasks // 2}[kind]
    return torch.randn(tasks, parameters, generator=torch.Generator().manual_seed(0))


def peer_of(name: str, matrix: Tensor) -> Callable[[], Tensor]:
    """TorchJD's weights of these gradients, as a call that starts cold."""
    gramian = matrix @ matrix.T
    if name == "Nash-MTL":
        weighting = aggregation.NashMTL(n_tasks=len(matrix)).weighting
        weighting(matrix)

        def nash() -> Tensor:
            weighting.prvs_alpha = np.ones(len(matrix), np.float32)
            return weighting(matrix)

        return nash
    made = {"MGDA": aggregation.MGDA(), "CAGrad": aggregation.CAGrad(c=C), "UPGrad": aggregation.UPGrad()}
    weighting = made[name].gramian_weighting
    return lambda: weighting(gramian)


OURS: dict[str, Callable[[Tensor], Tensor]] = {
    "CAGrad": lambda gramian: cagrad_weights(gramian, C),
    "Nash-MTL": nash_weights,
    "UPGrad": upgrad_weights,
    "MGDA": mgda_weights,
}


def compared(name: str, ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """How far apart directions are, or how much longer theirs is."""
    if name == "MGDA":
        return {"value": float(theirs.norm() / ours.norm() - 1)}
    if name == "Nash-MTL":  # up to the length, which is limited elsewhere
        ours, theirs = ours / ours.norm(), theirs / theirs.norm()
    return {"error": float((ours - theirs).norm() / ours.norm())}


def each(call: Callable[[], Tensor]) -> Callable[[], float]:
    """Seconds of a call, the mean of a few in a row."""
    return lambda: seconds(lambda: [call() for _ in range(CALLS)]) / CALLS


def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    """Each method, with 8 and 40 tasks, for the kinds of gradients."""
    warnings.simplefilter("ignore")  # cvxpy's, of problems that are not DPP
    for name, solve in OURS.items():
        for tasks in (8, 40):
            for kind in ("many parameters", "conflict", "dependent"):
                if (name, kind) == ("Nash-MTL", "dependent"):
                    continue  # no direction is good for all: there is no solution
                matrix = drawn(tasks, kind)
                gramian, peer = matrix @ matrix.T, peer_of(name, matrix)
                also = compared(name, solve(gramian) @ matrix, peer() @ matrix)
                times = medians(
                    repeats, each(lambda solve=solve, gramian=gramian: solve(gramian)), each(peer)
                )
                ours, theirs = (1e3 * time for time in times)
                yield row(
                    f"{name}, {tasks} tasks, {kind}", ours=ours, peers={"TorchJD": theirs}, unit="ms", **also
                )


if __name__ == "__main__":
    run(parser(__doc__, repeats=25), rows)
