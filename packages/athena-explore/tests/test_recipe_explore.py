"""The recipe `explore`, small: both learners, resume, environments, metrics, pictures, misuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from rich.console import Console

from athena_core import AthenaError, Configured, Interrupted, Run, load_checkpoint, saved_run
from athena_core.testing import execute
from athena_explore import Explore
from athena_explore._recipe_environment import make_environment
from athena_explore._recipe_record import Record

pytest.importorskip("matplotlib")
pytest.importorskip("stable_baselines3")

DEEP_SEA = "athena_explore.environments:athena/DeepSea-v0"
INDEX = {"size": 5, "observation": "index", "mapping_seed": 42}
SMALL: dict[str, Any] = {"n_envs": 2, "n_steps": 16, "batch_size": 16, "n_epochs": 2, "hidden": (8,)}
PPO: dict[str, Any] = {"steps": 128, **SMALL}
TABLES: dict[str, Any] = {
    "steps": 60,
    "env": DEEP_SEA,
    "env_options": INDEX,
    "learner": "q-learning",
    "n_steps": 12,
    "coefficient": 0.1,
    "intrinsic_gamma": 0.8,
    "step_size": 1.0,
}


def bonus(name: str = "counts", **options: Any) -> Configured:
    return Configured("bonus", name, options)


def recipe(given: dict[str, Any], **options: Any) -> Explore:
    return Explore(**{**given, **options})


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (PPO, {"bonus": bonus(bins=8)}),
        (PPO, {"bonus": bonus("rnd", hidden=[8], width=4)}),
        (PPO, {"bonus": bonus("e3b")}),  # it has a memory of the episode
        (PPO, {"env": "FrozenLake-v1", "bonus": bonus("icm")}),  # many ends
        (PPO, {"env": "Pendulum-v1", "bonus": bonus(bins=4)}),  # actions are continuous
        (TABLES, {}),
        (TABLES, {"bonus": bonus("rnd"), "epsilon": 0.2}),
        (TABLES, {"env": "FrozenLake-v1", "env_options": {}, "bonus": bonus("e3b")}),
    ],
    ids=["counts", "rnd", "e3b", "icm", "pendulum", "tables", "tables-rnd", "tables-e3b"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, given, options):
    """Cut where an episode is under way, which 16, 32 and 12 steps do not divide."""
    cut = 32 if given is PPO else 24
    whole = execute(recipe(given, **options), tmp_path / "whole")
    with pytest.raises(Interrupted):
        execute(recipe(given, **options), tmp_path / "cut", cut=cut)
    assert execute(recipe(given, **options), tmp_path / "cut")[:2] == whole[:2]
    assert_equal(last_state(tmp_path / "whole"), last_state(tmp_path / "cut"))


def last_state(folder: Path) -> dict[str, Any]:
    """What the newest checkpoint of a run holds."""
    return load_checkpoint(max((folder / "checkpoints").iterdir()))["state"]


def assert_equal(one: Any, other: Any) -> None:
    leaves, others = (torch.utils._pytree.tree_flatten(value) for value in (one, other))
    assert leaves[1] == others[1]
    for leaf, another in zip(leaves[0], others[0], strict=True):
        assert torch.equal(leaf, another) if isinstance(leaf, torch.Tensor) else leaf == another


def test_it_reports_logs_and_draws(tmp_path):
    final, rows, text = execute(recipe(TABLES, steps=240), tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(12, 241, 12))
    for row in rows:
        assert set(row) >= {"return", "length", "goal_share", "coverage", "bonus_mean", "bonus_std", "states"}
    assert set(final) == {"return_last_tenth", "best_return", "goal_reached", "goal_share", "coverage"}
    for words in (
        "episodes   48, of which",
        "% of the cells",
        "counts: ",
        "in the bonus",
        "best episode: return",
    ):
        assert words in text
    names = sorted(path.name for path in (tmp_path / "run" / "figures").iterdir())
    assert names == ["best_episode.gif", "bonus.png", "returns.png", "visits.png"]


def test_counts_solve_deep_sea_and_without_them_it_stays_ashore(tmp_path):
    with_counts = execute(recipe(TABLES, steps=600), tmp_path / "counts").final
    without = execute(recipe(TABLES, steps=600, coefficient=0.0), tmp_path / "none").final
    assert with_counts == {
        "return_last_tenth": pytest.approx(0.99),
        "best_return": pytest.approx(0.99),
        "goal_reached": 1.0,
        "goal_share": with_counts["goal_share"],
        "coverage": 1.0,
    }
    assert with_counts["goal_share"] > 0.5
    assert (without["goal_reached"], without["best_return"]) == (0.0, 0.0)
    assert without["coverage"] < 1


def test_ppo_without_a_coefficient_is_that_of_stable_baselines(tmp_path):
    import stable_baselines3
    from stable_baselines3.common.utils import set_random_seed

    from athena_core.environments import ReplayableEnv
    from athena_explore._recipe_ppo import ReplayableVecEnv

    options = recipe(PPO, steps=96, env="CartPole-v1", coefficient=0.0, bonus=bonus(bins=4))
    execute(options, tmp_path / "run")
    saved = last_state(tmp_path / "run")["policy"]
    envs = [ReplayableEnv(gym.make("CartPole-v1"), seed=3, index=index) for index in (0, 1)]
    set_random_seed(3)
    plain = stable_baselines3.PPO(
        "MlpPolicy",
        ReplayableVecEnv(envs),
        n_steps=16,
        batch_size=16,
        n_epochs=2,
        learning_rate=1e-3,
        policy_kwargs={"net_arch": [8]},
        seed=3,
        device="cpu",
    ).learn(96)
    for name, value in plain.policy.state_dict().items():
        assert torch.equal(saved[name], value), name


def test_options_reach_the_learners():
    options = recipe(
        PPO, lr=0.5, gamma=0.4, intrinsic_gamma=0.3, ent_coef=0.2, coefficient=0.6, bonus=bonus("rnd")
    )
    model: Any = options.build(5, torch.device("cpu"))[1].model  # pyright: ignore[reportAttributeAccessIssue]
    assert (model.gamma, model.intrinsic_gamma, model.ent_coef) == (0.4, 0.3, 0.2)
    assert (model.lr_schedule(1.0), model.bonus_coefficient(1.0), model.n_envs) == (0.5, 0.6, 2)
    assert (model.n_steps, model.batch_size, model.n_epochs) == (16, 16, 2)
    assert model.bonus.normalizer.gamma == 0.3
    learner: Any = recipe(TABLES, epsilon=0.2, gamma=0.5).build(5, torch.device("cpu"))[1]
    q = learner.q
    assert (q.coefficient, q.gamma, q.intrinsic_gamma, q.step_size, q.epsilon) == (0.1, 0.5, 0.8, 1.0, 0.2)


def test_each_seed_has_a_bonus_and_episodes_of_its_own():
    learners: list[Any] = [
        recipe(PPO, bonus=bonus("rnd")).build(seed, torch.device("cpu"))[1] for seed in (0, 1)
    ]
    weights = [learner.bonus.state_dict() for learner in learners]
    name = next(name for name in weights[0] if name.startswith("target") and name.endswith("weight"))
    assert not torch.equal(weights[0][name], weights[1][name])
    starts = {tuple(env.reset()[0].tolist()) for learner in learners for env in learner.envs}
    assert len(starts) == 4


def test_the_saved_configuration_makes_the_same_recipe(tmp_path):
    config = {"recipe": "explore", "seed": 0, "device": "cpu", **TABLES, "bonus": {"name": "counts"}}
    with Run(tmp_path / "run", config=config, device="cpu", console=Console(quiet=True)) as run:
        recipe(TABLES).run(run)
    saved = saved_run(tmp_path / "run")
    assert isinstance(saved.recipe, Explore)
    assert saved.recipe.env_options == INDEX
    learner = saved.recipe.build(0, torch.device("cpu"))[1]
    learner.parts()["learner"].load_state_dict(saved.state["learner"])
    assert learner.q.taken.any()  # pyright: ignore[reportAttributeAccessIssue]


# Environments.


def test_wrappers_and_rescaling_are_put_around_and_the_map_stays_that_of_the_environment():
    made = make_environment(
        DEEP_SEA, options={"size": 3}, wrappers=["gymnasium.wrappers:FlattenObservation"], rescale=True
    )
    assert made.places is not None
    assert made.env.reset(seed=0)[0].tolist() == [1] + [-1] * 8
    marks = [made.places.mark()]
    made.env.step(1)
    marks.append(made.places.mark())
    made.places.visits.add(made.places.points(marks))
    assert np.argwhere(made.places.visits.counts).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("rescale", [True, False])
def test_rescaling_takes_bounded_boxes_alone(rescale):
    for name, low in (("MountainCar-v0", -1.0), ("CartPole-v1", -np.inf), ("FrozenLake-v1", None)):
        space: Any = make_environment(name, rescale=rescale).env.observation_space
        if low == -1.0 and not rescale:
            assert space.low[0] == np.float32(-1.2)
        elif low is not None:
            assert space.low.min() <= -1
            assert (space.low == -1).all() == (name == "MountainCar-v0")


def test_a_policy_suits_the_observations():
    from athena_explore._recipe_ppo import policy_for

    box, image = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(0, 255, (3, 64, 48), np.uint8)
    assert policy_for(box) == policy_for(gym.spaces.Discrete(4)) == "MlpPolicy"
    assert policy_for(image) == "CnnPolicy"
    assert policy_for(gym.spaces.Dict({"a": box})) == "MultiInputPolicy"


class Dictionary(gym.ObservationWrapper[Any, Any, Any]):
    """Observes a dictionary."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Dict({"all": env.observation_space})

    def observation(self, observation: Any) -> Any:
        return {"all": observation}


def test_dictionaries_are_learned_from_and_resumed(tmp_path):
    options = recipe(PPO, wrappers=(f"{__name__}:Dictionary",), rescale=False, bonus=bonus("rnd"))
    whole = execute(options, tmp_path / "whole")
    with pytest.raises(Interrupted):
        execute(options, tmp_path / "cut", cut=64)
    assert execute(options, tmp_path / "cut")[:2] == whole[:2]


class Spoken(gym.ObservationWrapper[Any, Any, Any]):
    """Observes a text."""

    observation_space = gym.spaces.Text(9)

    def observation(self, observation: Any) -> Any:
        return "go"


class Rooms(gym.Env[Any, Any]):
    """What a map takes of MiniGrid's environments."""

    observation_space, action_space = gym.spaces.Discrete(1), gym.spaces.Discrete(2)
    width, height, agent_pos = 6, 4, (1, 1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.agent_pos = (1, 1)
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.agent_pos = (self.agent_pos[0] + action, self.agent_pos[1])
        return 0, 0.0, False, False, {}


def test_grids_like_minigrids_are_mapped_by_row_and_column():
    gym.register("test/Rooms-v0", Rooms)
    try:
        made = make_environment("test/Rooms-v0")
        assert made.places is not None
        made.env.reset(seed=0)
        marks = [made.places.mark()]
        for _ in range(2):
            made.env.step(1)
            marks.append(made.places.mark())
        made.places.visits.add(made.places.points(marks))
        assert np.argwhere(made.places.visits.counts).tolist() == [[1, 1], [1, 2], [1, 3]]
        assert made.places.visits.coverage == 3 / 8
    finally:
        del gym.registry["test/Rooms-v0"]


def test_an_environment_without_a_map_has_no_coverage(tmp_path):
    final, rows, text = execute(recipe(PPO, env="CartPole-v1", bonus=bonus(bins=4)), tmp_path / "run")
    assert "coverage" not in final
    assert "coverage" not in rows[0]
    assert "coverage" not in text
    assert not (tmp_path / "run" / "figures" / "visits.png").exists()


def test_a_run_in_which_no_episode_ends_says_so(tmp_path):
    final, _, text = execute(recipe(PPO, steps=32), tmp_path / "run")
    assert final["best_return"] == final["return_last_tenth"] == 0
    assert "no picture of the best episode: no episode ended" in text
    assert not (tmp_path / "run" / "figures" / "returns.png").exists()


# The record.


def test_what_is_logged_of_episodes_by_hand():
    record, quiet = Record(goal_return=0.5, places=None), {"bonus_mean": 0.0, "bonus_std": 0.0}
    logged = [
        record.note(step, ended=ended, bonus=quiet)
        for step, ended in ((10, []), (20, [(1.0, 3), (0.5, 5)]), (30, []), (40, [(0.0, 2)]))
    ]
    assert [row["return"] for row in logged] == [0.0, 0.75, 0.75, 0.0]
    assert [row["length"] for row in logged] == [0.0, 4.0, 4.0, 2.0]
    assert [row["goal_share"] for row in logged] == [0.0, 0.5, 0.5, pytest.approx(1 / 3)]
    assert record.first_goal == 20
    final = record.final(40)
    assert (final["return_last_tenth"], final["best_return"], final["goal_reached"]) == (0.0, 1.0, 1.0)
    assert record.final(1000)["return_last_tenth"] == 0.0  # none ended so late: what was logged last
    other = Record(goal_return=0.5, places=None)
    other.load_state_dict(record.state_dict())
    assert json.dumps(other.final(40)) == json.dumps(final)


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (PPO, {"steps": 0}, "`steps` must be at least 1; got 0"),
        (PPO, {"n_envs": 0}, "`n_envs` must be at least 1; got 0"),
        (PPO, {"n_steps": 0}, "`n_steps` must be at least 1; got 0"),
        (PPO, {"batch_size": 0}, "`batch_size` must be at least 1; got 0"),
        (PPO, {"n_epochs": 0}, "`n_epochs` must be at least 1; got 0"),
        (PPO, {"gamma": 2.0}, r"`gamma` must lie in \[0, 1\]; got 2"),
        (PPO, {"lr": -1.0}, "`lr` must be a positive number; got -1"),
        (PPO, {"ent_coef": float("nan")}, "`ent_coef` must be a finite number.*got nan"),
        (PPO, {"hidden": (8, 0)}, r"`hidden` must hold widths of at least 1; got \[8, 0\]"),
        (PPO, {"coefficient": -1.0}, "`bonus_coefficient`: .*; got -1.0"),
        (PPO, {"intrinsic_gamma": 1.0}, r"`intrinsic_gamma` must lie in \[0, 1\)"),
        (PPO, {"env": "Nowhere-v0"}, "`env` 'Nowhere-v0' cannot be made: .*doesn't exist"),
        (PPO, {"env": "nomodule:Nowhere-v0"}, "`env` 'nomodule:Nowhere-v0' cannot be made"),
        (PPO, {"env_options": {"size": 3}}, "cannot be made: .*'size'"),
        (PPO, {"wrappers": ("gymnasium.wrappers:Nothing",)}, "cannot be made: .*'Nothing'"),
        (PPO, {"wrappers": ("gymnasium.wrappers",)}, "cannot be made: "),
        (
            PPO,
            {"wrappers": (f"{__name__}:Spoken",)},
            "`observation_space` must be of .* Wrap the",
        ),
        (PPO, {"env": "Blackjack-v1", "bonus": bonus()}, "Tuple"),
        (PPO, {"bonus": bonus(bins=1)}, "bonus `counts`: `bins` must be at least 2; got 1"),
        (TABLES, {"n_envs": 2}, "`n_envs` must be 1 for `learner` q-learning; got 2"),
        (TABLES, {"env_options": {"size": 4}}, "`learner` q-learning needs a Discrete `observation_space`"),
        (TABLES, {"coefficient": -1.0}, "`coefficient` must be a finite number"),
        (TABLES, {"epsilon": 2.0}, r"`epsilon` must lie in \[0, 1\]; got 2.0"),
    ],
)
def test_misuse_is_told_in_one_line(tmp_path, given, options, words):
    with pytest.raises(AthenaError, match=words) as error:
        execute(recipe(given, **options), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
