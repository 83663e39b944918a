"""At a coefficient of 0 all is as in Stable-Baselines3, bit for bit; building draws nothing global."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_environments import corridors
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from athena_explore.sb3 import IntrinsicMaskablePPO, IntrinsicOnPolicy, IntrinsicPPO, IntrinsicRecurrentPPO

Pair = tuple[type[OnPolicyAlgorithm], type[IntrinsicOnPolicy]]


class IntrinsicA2C(IntrinsicOnPolicy, A2C):
    pass


PLAIN: Pair = PPO, IntrinsicPPO
MASKED: Pair = MaskablePPO, IntrinsicMaskablePPO
RECURRENT: Pair = RecurrentPPO, IntrinsicRecurrentPPO
SMALL = {"n_steps": 32, "batch_size": 48, "n_epochs": 2}
LSTM = {**SMALL, "policy_kwargs": {"lstm_hidden_size": 8, "net_arch": [8]}}


def cart_poles() -> VecEnv:
    return make_vec_env("CartPole-v1", 4, seed=0)


def pendulums() -> VecEnv:
    return VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0))


CASES: dict[str, tuple[Pair, str, Callable[[], VecEnv], int, dict[str, Any]]] = {
    "vectors": (PLAIN, "MlpPolicy", cart_poles, 10_000, {"n_steps": 250, "batch_size": 250}),
    "vectors, clipped and stopped": (
        PLAIN,
        "MlpPolicy",
        cart_poles,
        10_000,
        {"n_steps": 250, "batch_size": 250, "target_kl": 0.001, "clip_range_vf": 0.2},
    ),
    "images": (
        PLAIN,
        "CnnPolicy",
        lambda: corridors(8, observation="image"),
        10_000,
        {
            "n_steps": 250,
            "batch_size": 500,
            "n_epochs": 2,
            "target_kl": 0.05,
            "clip_range_vf": 0.2,
            "policy_kwargs": {"features_extractor_kwargs": {"features_dim": 32}},
        },
    ),
    "continuous actions, normalised": (PLAIN, "MlpPolicy", pendulums, 500, {**SMALL, "use_sde": True}),
    "dictionaries": (PLAIN, "MultiInputPolicy", lambda: corridors(observation="dict"), 500, SMALL),
    "masks": (MASKED, "MlpPolicy", corridors, 2_000, {**SMALL, "target_kl": 0.01, "clip_range_vf": 0.2}),
    "recurrent": (RECURRENT, "MlpLstmPolicy", corridors, 500, {**LSTM, "clip_range_vf": 0.2}),
    "recurrent dictionaries": (
        RECURRENT,
        "MultiInputLstmPolicy",
        lambda: corridors(observation="dict"),
        300,
        LSTM,
    ),
    "A2C": ((A2C, IntrinsicA2C), "MlpPolicy", corridors, 500, {"n_steps": 8, "normalize_advantage": True}),
}


def generators() -> list[Any]:
    """The states of all global generators."""
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_a_coefficient_of_0_changes_no_bit(case: str) -> None:
    (theirs, ours), policy, make, steps, options = CASES[case]
    options = {**options, "seed": 3, "device": "cpu"}
    expected = theirs(policy, make(), **options).learn(steps)
    after = generators()
    model = ours(policy, make(), bonus="rnd", bonus_coefficient=0.0, **options).learn(steps)
    assert generators() == after
    weights = dict(model.policy.named_parameters())
    for name, weight in expected.policy.named_parameters():
        assert torch.equal(weights.pop(name), weight), name
    assert set(weights) == {"intrinsic_value.weight", "intrinsic_value.bias"}
    assert all(weight.grad is None for weight in weights.values())
    assert model.bonus.ready
    assert model._n_updates == expected._n_updates
    if "stopped" in case:
        assert expected._n_updates < 10 * 10  # rollouts times epochs: the limit of the divergence was met


@pytest.mark.parametrize(("pair", "policy"), [(PLAIN, "MlpPolicy"), (RECURRENT, "MlpLstmPolicy")])
def test_building_draws_nothing(pair: Pair, policy: str) -> None:
    theirs, ours = pair
    theirs(policy, corridors(), seed=3, device="cpu")
    after = generators()
    ours(policy, corridors(), seed=3, device="cpu")
    assert generators() == after


def test_the_seed_is_that_of_the_bonus_and_of_the_second_head() -> None:
    models = [IntrinsicPPO("MlpPolicy", corridors(), seed=seed, device="cpu") for seed in (1, 1, 2)]
    heads = [model.intrinsic_value.weight for model in models]
    targets = [next(iter(model.bonus.parameters())) for model in models]
    for first, same, other in (heads, targets):
        assert torch.equal(first, same)
        assert not torch.equal(first, other)
    chosen = IntrinsicPPO("MlpPolicy", corridors(), bonus_options={"seed": 2}, seed=1, device="cpu")
    assert torch.equal(next(iter(chosen.bonus.parameters())), targets[2])


def test_the_bonus_is_scaled_by_returns_of_the_intrinsic_discount() -> None:
    model = IntrinsicPPO("MlpPolicy", corridors(), intrinsic_gamma=0.7, device="cpu")
    assert model.bonus.normalizer.gamma == 0.7
