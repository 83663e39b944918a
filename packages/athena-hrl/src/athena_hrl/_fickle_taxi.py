"""The model of Taxi with passengers who change their mind, which Gymnasium's own table leaves out."""

from __future__ import annotations

import numpy as np

from athena_hrl._taxi_machine import IN_TAXI, N_STATES
from athena_hrl._value_iteration import FiniteMDP


def fickle_model(model: FiniteMDP, probability: float) -> FiniteMDP:
    """Add to a model of Taxi a hidden feature: whether the passenger will want to go elsewhere.

    Such a passenger does, once, when the taxi first moves with him or her inside; each of the other three
    destinations is as likely. State ``s + 500`` is the state ``s`` in which that is still to come. A learner
    sees ``s`` alone, so that what is optimal here may be out of its reach.

    Args:
        model: of Taxi without fickle passengers.
        probability: that a passenger is fickle.

    Raises ValueError for a probability outside [0, 1].
    Source: Dietterich 2000, arXiv:cs/9905014, section 7.1, as Taxi-v4 has it. Departs from it: no.

    >>> import gymnasium as gym
    >>> from athena_hrl import finite_mdp
    >>> fickle = fickle_model(finite_mdp(gym.make("Taxi-v4")), 0.3)
    >>> fickle.transition.shape, round(float(fickle.start[:500].sum()), 6)
    ((1000, 6, 1000), 0.7)
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"`probability` must lie in [0, 1]; got {probability}.")
    states = np.arange(N_STATES)
    place, passenger, destination = states // 20, states // 4 % 5, states % 4
    changes_mind = (passenger == IN_TAXI)[:, None] & (place[:, None] != place)  # (from, to)
    elsewhere = (states[:, None] // 4 == states // 4) & (destination[:, None] != destination)
    transition = np.zeros((2 * N_STATES, model.reward.shape[1], 2 * N_STATES))
    transition[:N_STATES, :, :N_STATES] = model.transition
    transition[N_STATES:, :, N_STATES:] = model.transition * ~changes_mind[:, None]
    transition[N_STATES:, :, :N_STATES] = (model.transition * changes_mind[:, None]) @ (elsewhere / 3)
    start = np.concatenate([(1 - probability) * model.start, probability * model.start])
    return FiniteMDP(transition, np.tile(model.reward, (2, 1)), start)
