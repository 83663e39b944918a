"""DeepSea: rewards and moves worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from athena_core.environments import NumpyEnv, NumpyVectorEnv
from athena_explore import DeepSea


def play(sea: DeepSea, actions: list[int]) -> tuple[list[float], list[tuple[float, ...]]]:
    """Rewards, and places before each step."""
    env = NumpyEnv(sea)
    observation, _ = env.reset(seed=0)
    rewards, places = [], []
    for action in actions:
        places.append(tuple(env.position(observation)))
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(reward)
        assert not truncated
    assert terminated
    assert np.isnan(env.position(observation)).all()
    return rewards, places


def test_always_right_reaches_the_treasure() -> None:
    rewards, places = play(DeepSea(size=4), [1, 1, 1, 1])
    np.testing.assert_allclose(rewards, [-0.0025, -0.0025, -0.0025, 0.9975], rtol=1e-12)
    assert sum(rewards) == pytest.approx(0.99)
    assert places == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_left_is_free_and_stops_at_the_wall() -> None:
    rewards, places = play(DeepSea(size=4), [0, 1, 0, 0])
    assert rewards == [0, -0.0025, 0, 0]
    assert places == [(0, 0), (1, 0), (2, 1), (3, 0)]


def test_one_step_to_the_left_costs_the_treasure() -> None:
    for wrong in range(4):
        actions = [1] * 4
        actions[wrong] = 0
        assert sum(play(DeepSea(size=4), actions)[0]) == pytest.approx(-0.0075)


def test_the_last_step_must_be_right_too() -> None:
    rewards, places = play(DeepSea(size=3), [1, 1, 0])
    assert places[-1] == (2, 2)
    assert rewards[-1] == 0


def test_a_mapping_renames_actions_and_changes_nothing_else() -> None:
    plain, mapped = DeepSea(size=6), DeepSea(size=6, mapping_seed=3)
    assert 0 < mapped.right_action.mean() < 1
    moves = np.random.default_rng(0).integers(2, size=6)
    row = column = 0
    named = []
    for move in moves:
        named.append(int(mapped.right_action[row, column] if move else 1 - mapped.right_action[row, column]))
        row, column = row + 1, min(max(column + 2 * move - 1, 0), 5)
    assert play(mapped, named) == play(plain, moves.tolist())
    assert (mapped.right_action == DeepSea(size=6, mapping_seed=3).right_action).all()
    assert (mapped.right_action != DeepSea(size=6, mapping_seed=4).right_action).any()


def test_the_two_observations_tell_the_same() -> None:
    sizes = {"size": 5, "mapping_seed": 0}
    one_hot = NumpyVectorEnv(DeepSea(**sizes), 8)
    index = NumpyVectorEnv(DeepSea(**sizes, observation="index"), 8)
    (wide, _), (narrow, _) = one_hot.reset(), index.reset()
    draws = np.random.default_rng(0)
    for _ in range(13):
        padded = np.concatenate([wide, 1 - wide.sum(1, keepdims=True)], 1)  # the end is a cell of its own
        np.testing.assert_array_equal(padded.argmax(1), narrow)
        np.testing.assert_array_equal(one_hot.position(wide), index.position(narrow))
        actions = draws.integers(2, size=8)
        wide, *rest = one_hot.step(actions)
        narrow, *others = index.step(actions)
        for ours, other in zip(rest[:3], others[:3], strict=True):
            np.testing.assert_array_equal(ours, other)
        assert wide in one_hot.observation_space
        assert narrow in index.observation_space


def test_all_actions_visit_all_reachable_cells_and_no_others() -> None:
    env = NumpyVectorEnv(DeepSea(size=4), 2**4)
    visits = env.visit_map()
    observation, _ = env.reset()
    for step in range(4):
        visits.add(env.position(observation))
        observation = env.step(np.arange(2**4) >> step & 1)[0]
    visits.add(env.position(observation))  # after the last step: nowhere
    assert visits.coverage == 1
    assert ((visits.counts > 0) == np.tri(4, dtype=bool)).all()
    assert visits.counts.sum() == 4 * 2**4


def test_the_diver_is_in_the_picture_until_the_end() -> None:
    env = NumpyEnv(DeepSea(size=2), render_mode="rgb_array")
    env.reset()
    diver = env.render()[0, 0]
    env.step(1)
    assert (env.render()[16, 16] == diver).all()
    env.step(1)
    assert not (env.render() == diver).all(-1).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, r"`size` must be at least 1; got 0"),
        ({"observation": "image"}, r'`observation` must be "one-hot" or "index"; got \'image\''),
    ],
)
def test_it_refuses(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepSea(**options)
