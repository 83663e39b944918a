"""Who comes to the Pareto front of the two-loss problem from all five starts, and who does not."""

from __future__ import annotations

from athena_multitask._recipe_toy import REACHED, Descents

STEPS, LR = 3500, 1e-2  # the paper's 35,000 of 0.001 go as far


def test_methods_that_heed_no_scale_reach_the_front_and_the_plain_sum_does_not() -> None:
    reaching = ["imtl-g", "mgda", "nash-mtl"]
    descents = Descents([*reaching, "static"], steps=STEPS, lr=LR, scale=0.1, seed=0)
    for _ in range(STEPS):
        descents.step()
    distances = descents.distances()
    assert (distances[:-1] < REACHED).all(), distances
    assert distances[-1, 2] > 10, distances  # caught in a trough
