"""Importing this module registers the package's environments with Gymnasium.

>>> import gymnasium as gym
>>> gym.make("athena_hrl.environments:athena/FourRooms-v0").spec.max_episode_steps
1000
"""

from athena_hrl._environments import register_environments

register_environments()
