"""Importing this module registers the package's environments with Gymnasium.

>>> import gymnasium as gym
>>> gym.make("athena_explore.environments:athena/NoisyTVMaze-v0").spec.max_episode_steps
200
"""

from athena_explore._environments import register_environments

register_environments()
