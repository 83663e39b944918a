"""The algorithms of sb3-contrib with an intrinsic reward: masks of actions, and recurrent policies."""

from __future__ import annotations

from sb3_contrib import MaskablePPO, RecurrentPPO

from athena_explore.sb3._on_policy import IntrinsicOnPolicy


class IntrinsicMaskablePPO(IntrinsicOnPolicy, MaskablePPO):
    """sb3-contrib's MaskablePPO with an intrinsic reward; `IntrinsicPPO` tells how, and its arguments.

    Source: as `IntrinsicPPO`; masks Huang, Ontañón 2020, arXiv:2006.14171. Departs from it: no.

    >>> from sb3_contrib.common.envs import InvalidActionEnvDiscrete
    >>> env = InvalidActionEnvDiscrete(dim=8, n_invalid_actions=4)
    >>> model = IntrinsicMaskablePPO("MlpPolicy", env, bonus="rnd", n_steps=64, device="cpu", seed=0)
    >>> model.learn(128).num_timesteps
    128
    """


class IntrinsicRecurrentPPO(IntrinsicOnPolicy, RecurrentPPO):
    """sb3-contrib's RecurrentPPO with an intrinsic reward; `IntrinsicPPO` tells how, and its arguments.

    The second value reads the features of the critic's recurrent network; padded steps enter no loss.

    Source: as `IntrinsicPPO`. Departs from it: no.

    >>> options = {"n_steps": 32, "policy_kwargs": {"lstm_hidden_size": 8}, "device": "cpu", "seed": 0}
    >>> model = IntrinsicRecurrentPPO("MlpLstmPolicy", "CartPole-v1", bonus="rnd", **options)
    >>> model.learn(64).num_timesteps
    64
    """
