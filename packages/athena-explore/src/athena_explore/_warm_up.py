"""Statistics of observations before the first step of learning, from an environment handed over for it."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import VectorEnv

from athena_explore._bonus import Bonus
from athena_explore._observation_normalizer import ObservationNormalizer
from athena_explore._step_reader import StepReader, stack_transitions
from athena_explore._transition import Transition


def warm_up(bonus: Bonus, env: VectorEnv[Any, Any, Any], *, steps: int = 50, seed: int = 0) -> None:
    """Start a bonus's statistics of observations from random actions in a vector environment.

    Without it they start from the first rollout, whose rewards are 0. Networks, counts and the scale of the
    rewards do not change. The environment is reset, and left wherever it is after the last step: hand over
    another than the learner's own, whose steps would else no longer be those of its seed.

    Args:
        bonus: any that normalises observations.
        env: of the same spaces, in any autoreset mode; with DISABLED its rows are reset where they ended.
        steps: of each row.
        seed: of the environment and of the actions.

    Raises TypeError for a single environment, ValueError for a bonus without statistics, for ``steps`` below
    1, and for an environment of other spaces.

    Source: Burda et al. 2018, arXiv:1810.12894, section 2.4. Departs from it: the environment is another.

    >>> import gymnasium as gym
    >>> from athena_explore import RND
    >>> env = gym.make_vec("CartPole-v1", 16)
    >>> bonus = RND(env.single_observation_space, env.single_action_space)
    >>> warm_up(bonus, env), bonus.ready
    (None, True)
    """
    if not isinstance(env, VectorEnv):
        raise TypeError(
            f"`env` must be a vector environment; got {env}. Pass "
            "`gymnasium.vector.SyncVectorEnv([lambda: env])`."
        )
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1; got {steps}. Take 50.")
    normalizers = [module for module in bonus.modules() if isinstance(module, ObservationNormalizer)]
    if not normalizers:
        raise ValueError(
            f"`bonus` must have statistics of observations to warm up; {type(bonus).__name__} has none."
        )
    samples = bonus._checked(_random_steps(env, steps, seed)).flat().next_obs
    for normalizer in normalizers:
        normalizer.update(samples)


def _random_steps(env: VectorEnv[Any, Any, Any], steps: int, seed: int) -> Transition:
    """The transitions ``(T, N)`` of random actions."""
    reader, rows = StepReader(env), []
    reader.reset(env.reset(seed=seed)[0])
    env.action_space.seed(seed)
    for _ in range(steps):
        if reader.mode.name == "DISABLED" and reader.ended is not None and bool(reader.ended.any()):
            mask = reader.ended.cpu().numpy()
            reader.reset(env.reset(options={"reset_mask": mask.copy()})[0], reset_mask=mask)
        action = env.action_space.sample()
        rows.append(reader.read(action, env.step(action)))
    return stack_transitions(rows)
