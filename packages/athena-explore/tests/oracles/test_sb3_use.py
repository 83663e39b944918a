"""Saving and loading, callbacks and logs, and what is refused."""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_environments import ACTIONS, OBSERVATIONS, Constant, Kept, Recording, corridors
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn
from torch.utils._pytree import tree_flatten

from athena_core import AthenaError, components
from athena_explore import RND
from athena_explore.sb3 import IntrinsicMaskablePPO, IntrinsicPPO, IntrinsicRecurrentPPO

OPTIONS: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
SMALL: dict[str, Any] = {"width": 8, "hidden": (8,)}


def make_small(observation_space: Any, action_space: Any) -> RND:
    return RND(observation_space, action_space, seed=4, **SMALL)


def made_small() -> RND:
    return make_small(OBSERVATIONS["vector"], ACTIONS["discrete"])


def assert_same(one: Any, other: Any) -> None:
    """Dictionaries of tensors, numbers and words, bit for bit."""
    (ours, structure), (theirs, other_structure) = tree_flatten(one), tree_flatten(other)
    assert structure == other_structure
    for mine, its in zip(ours, theirs, strict=True):
        assert torch.equal(mine, its) if isinstance(mine, torch.Tensor) else mine == its


def go_on(model: Any, steps: int = 96) -> Any:
    """With the same environment and the same global generators, whatever was before."""
    model.set_env(corridors())
    model.set_random_seed(7)
    return model.learn(steps, reset_num_timesteps=False)


# --- files -----------------------------------------------------------------------------------------

CHOICES: dict[str, Any] = {"name": "rnd", "class": RND, "function": make_small, "made": made_small}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        (IntrinsicPPO, "MlpPolicy"),
        (IntrinsicMaskablePPO, "MlpPolicy"),
        (IntrinsicRecurrentPPO, "MlpLstmPolicy"),
    ],
)
def test_a_loaded_model_goes_on_identically(kind: Any, policy: str, choice: str, tmp_path: Path) -> None:
    bonus, again = CHOICES[choice], {}
    if choice == "made":
        bonus, again = bonus(), {"bonus": bonus()}
    options = SMALL if choice in ("name", "class") else {}
    model = kind(policy, corridors(), bonus=bonus, bonus_options=options, bonus_coefficient=0.3, **OPTIONS)
    model.learn(96)
    model.save(tmp_path / "model")
    loaded = kind.load(tmp_path / "model", env=corridors(), device="cpu", **again)
    assert loaded is not model
    assert loaded.bonus_coefficient(1.0) == 0.3
    assert_same(model.get_parameters(), loaded.get_parameters())
    assert_same(go_on(model).get_parameters(), go_on(loaded).get_parameters())
    assert loaded.num_timesteps == 192
    assert torch.equal(loaded.bonus.generator.get_state(), model.bonus.generator.get_state())


@pytest.mark.parametrize("name", [component.name for component in components("bonus")])
def test_every_bonus_learns_and_goes_on_from_a_file(name: str, tmp_path: Path) -> None:
    model = IntrinsicPPO("MlpPolicy", corridors(), bonus=name, **OPTIONS).learn(128)
    model.save(tmp_path / "model")
    loaded = IntrinsicPPO.load(tmp_path / "model", env=corridors(), device="cpu")
    assert_same(go_on(model, 64).get_parameters(), go_on(loaded, 64).get_parameters())
    weights = list(model.policy.intrinsic_value.parameters())
    assert all(weight.grad is not None and bool(weight.isfinite().all()) for weight in weights)


def test_the_bonus_is_in_the_file_as_tensors_alone(tmp_path: Path) -> None:
    made = made_small()
    model = IntrinsicPPO("MlpPolicy", corridors(), bonus=made, **OPTIONS).learn(64)
    model.save(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as file:
        data = json.loads(file.read("data"))
        with file.open("bonus.pth") as part:
            assert_same(dict(torch.load(part, weights_only=True)), dict(made.state_dict()))
    assert not {"bonus", "intrinsic_value", "_recorder"} & set(data)
    assert data["_bonus_choice"] is None
    with pytest.raises(ValueError, match=r"`bonus` must be given to `load`"):
        IntrinsicPPO.load(tmp_path / "model")


def test_loading_without_or_with_other_environments(tmp_path: Path) -> None:
    model = IntrinsicPPO("MlpPolicy", VecNormalize(corridors(2)), bonus_options=SMALL, **OPTIONS).learn(64)
    model.save(tmp_path / "model")
    alone = IntrinsicPPO.load(tmp_path / "model", device="cpu")
    obs = np.zeros((1, 2), np.float32)
    assert alone.predict(obs, deterministic=True) == model.predict(obs, deterministic=True)
    assert alone.bonus.observation_space == OBSERVATIONS["vector"]  # that below VecNormalize
    more = IntrinsicPPO.load(tmp_path / "model", env=VecNormalize(corridors(3)), device="cpu")
    assert more.learn(48).n_envs == 3


def test_a_checkpoint_of_another_bonus_is_refused(tmp_path: Path) -> None:
    model = IntrinsicPPO("MlpPolicy", corridors(), bonus="rnd", bonus_options=SMALL, **OPTIONS)
    model.save(tmp_path / "model")
    with pytest.raises(RuntimeError, match=r"size mismatch|state_dict"):
        IntrinsicPPO.load(tmp_path / "model", device="cpu", bonus_options={**SMALL, "width": 9})


def test_weights_of_the_algorithm_itself_can_be_taken_over(tmp_path: Path) -> None:
    plain = PPO("MlpPolicy", corridors(), **OPTIONS).learn(32)
    model = IntrinsicPPO("MlpPolicy", corridors(), bonus_options=SMALL, **OPTIONS)
    model.policy.load_state_dict(plain.policy.state_dict(), strict=False)
    weights = dict(model.policy.named_parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in plain.policy.named_parameters())


# --- callbacks and logs ----------------------------------------------------------------------------


def test_logs() -> None:
    kept = Kept()
    model = IntrinsicPPO(
        "MlpPolicy", corridors(), bonus=Constant, bonus_coefficient=lambda p: 2 * p, **OPTIONS
    )
    model.set_logger(Logger(None, [kept]))
    model.learn(3 * 32)
    first, second, third = kept.rows
    assert (first["intrinsic/reward_mean"], first["intrinsic/reward_std"]) == (1, 0)
    coefficients = [row["intrinsic/coefficient"] for row in kept.rows]
    assert coefficients == pytest.approx([2, 4 / 3, 2 / 3])
    assert [row["intrinsic/samples"] for row in kept.rows] == [32, 64, 96]  # what the bonus says itself
    assert all(0 < row["intrinsic/time_share"] < 1 for row in kept.rows)
    assert "intrinsic/value_loss" not in first  # nothing was trained before
    assert second["intrinsic/value_loss"] > 0
    assert second["train/value_loss"] > 0
    assert third["intrinsic/value_loss"] != second["intrinsic/value_loss"]


def test_no_value_loss_is_logged_at_a_coefficient_of_0() -> None:
    kept = Kept()
    model = IntrinsicPPO("MlpPolicy", corridors(), bonus=Constant, bonus_coefficient=0, **OPTIONS)
    model.set_logger(Logger(None, [kept]))
    model.learn(2 * 32)
    assert "intrinsic/value_loss" not in kept.rows[1]
    assert kept.rows[1]["intrinsic/reward_mean"] == 1


class Counting(BaseCallback):
    """Counts its calls, and stops at one of them."""

    def __init__(self, stop: int = 10**9) -> None:
        super().__init__()
        self.stop, self.begun, self.ended = stop, 0, 0

    def _init_callback(self) -> None:
        self.begun += 1

    def _on_step(self) -> bool:
        assert self.locals["new_obs"].shape == (2, 2)
        return self.n_calls < self.stop

    def _on_training_end(self) -> None:
        self.ended += 1


def test_callbacks_of_every_kind() -> None:
    model = IntrinsicPPO("MlpPolicy", corridors(), bonus=Constant, **OPTIONS)
    one, two = Counting(), Counting()
    model.learn(32, callback=one)
    model.learn(32, callback=[one, two])
    calls: list[Any] = []
    model.learn(32, callback=lambda *seen: calls.append(seen) or True)
    assert (one.n_calls, two.n_calls, len(calls)) == (32, 16, 16)
    assert (one.begun, one.ended, two.begun, two.ended) == (2, 2, 1, 1)


def test_a_callback_that_stops_within_a_rollout() -> None:
    model = IntrinsicPPO("MlpPolicy", corridors(), bonus=Recording, **OPTIONS)
    model.learn(64, callback=Counting(stop=20))
    assert len(model.bonus.seen) == 1  # what is not complete is trained on by nobody
    model.learn(32)
    assert len(model.bonus.seen) == 2
    assert model.bonus.seen[1].obs[0].tolist()[0][1] == 0


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
def test_the_progress_bar(capfd: pytest.CaptureFixture[str]) -> None:
    model = IntrinsicPPO("MlpPolicy", corridors(), bonus=Constant, **OPTIONS)
    model.learn(64, progress_bar=True)
    assert "64/64" in capfd.readouterr().out.replace(" ", "")


def test_evaluation_and_checkpoints_within_training(tmp_path: Path) -> None:
    env = VecNormalize(corridors())
    evaluation = EvalCallback(
        VecNormalize(corridors(1), training=False), eval_freq=10, n_eval_episodes=1, warn=False, verbose=0
    )
    checkpoint = CheckpointCallback(16, str(tmp_path), save_vecnormalize=True)
    model = IntrinsicPPO("MlpPolicy", env, bonus="rnd", bonus_options=SMALL, **OPTIONS)
    model.learn(64, callback=[evaluation, checkpoint])
    assert len(list(tmp_path.glob("*.zip"))) == 2
    before = copy.deepcopy(model.bonus.state_dict())
    evaluate_policy(model, corridors(1), n_eval_episodes=2, warn=False)
    assert_same(model.bonus.state_dict(), before)


# --- refusals --------------------------------------------------------------------------------------


class Narrow(Recording):
    def rewards(self, transition: Any) -> torch.Tensor:
        return torch.ones(transition.shape[0], 1)


class Headless(ActorCriticPolicy):
    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.value_net = nn.Sequential(self.value_net)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"bonus": "rnb"}, AthenaError, "rnb"),
        ({"bonus": "rnd", "bonus_options": {"widht": 3}}, AthenaError, "width"),
        ({"bonus": 3}, TypeError, "`bonus` must be a name.*got 3"),
        ({"bonus": lambda *spaces: None}, TypeError, "`bonus` must be a name.*got None"),
        ({"bonus": made_small(), "bonus_options": {"width": 3}}, TypeError, "still to be made.*width"),
        ({"bonus_coefficient": -0.1}, ValueError, "bonus_coefficient.*-0.1"),
        ({"bonus_coefficient": float("nan")}, ValueError, "bonus_coefficient.*nan"),
        ({"intrinsic_gamma": 1.0}, ValueError, r"`intrinsic_gamma` must lie in \[0, 1\).*got 1.0"),
        ({"intrinsic_gae_lambda": 1.1}, ValueError, r"`intrinsic_gae_lambda` must lie in \[0, 1\].*got 1.1"),
        ({"intrinsic_vf_coef": -1.0}, ValueError, "`intrinsic_vf_coef`.*got -1.0"),
        ({"policy": Headless}, TypeError, "linear `value_net`.*Sequential"),
        ({"n_stops": 3}, TypeError, "n_stops"),
    ],
)
def test_refusals_when_made(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    policy = options.pop("policy", "MlpPolicy")
    with pytest.raises(kind, match=message):
        IntrinsicPPO(policy, corridors(), **{**OPTIONS, **options})


def test_refusals_in_use() -> None:
    model = IntrinsicPPO("MlpPolicy", corridors(), bonus=Narrow, **OPTIONS)
    with pytest.raises(ValueError, match=r"Narrow.*\(16, 2\).*\(16, 1\)"):
        model.learn(32)
    model = IntrinsicPPO("MlpPolicy", corridors(), bonus_coefficient=lambda p: -p, **OPTIONS)
    with pytest.raises(ValueError, match=r"coefficient at 1.*-1"):
        model.learn(32)
    other = RND(spaces.Box(-1, 1, (3,), np.float32), ACTIONS["discrete"])
    with pytest.raises(ValueError, match=r"obs.*\(16, 2, 3\).*\(16, 2, 2\)"):
        IntrinsicPPO("MlpPolicy", corridors(), bonus=other, **OPTIONS).learn(32)
