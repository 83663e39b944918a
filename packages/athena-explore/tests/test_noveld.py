"""NovelD against loops in float64, values by hand, and its gate."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from athena_explore import NovelD, Transition
from athena_explore._bonus_laws import ACTIONS, VECTOR, walk


def reference_rewards(bonus: NovelD, rollouts: list[Transition], alpha: float) -> list[list[list[float]]]:
    """``[rollout][t][n]``: one environment after the other, one row after the other, in float64."""
    target, predictor = copy.deepcopy(bonus.rnd.target).double(), copy.deepcopy(bonus.rnd.predictor).double()
    moments = bonus.rnd.observations.moments[0]
    mean, deviation = moments.mean.double(), moments.variance.double().sqrt()

    @torch.no_grad()
    def novelty(observation: Tensor) -> float:
        row = ((observation.double() - mean) / deviation).clamp(-5, 5)[None]
        return float((target(row) - predictor(row)).norm())

    n_envs = rollouts[0].shape[1]
    visits: list[Counter[tuple[float, ...]]] = [Counter() for _ in range(n_envs)]
    everything = []
    for rollout in rollouts:
        rewards = [[0.0] * n_envs for _ in range(len(rollout.valid))]
        for n in range(n_envs):
            for t in range(len(rollout.valid)):
                if not rollout.valid[t, n]:
                    continue
                state = tuple(rollout.next_obs[t, n].tolist())
                visits[n][state] += 1
                if visits[n][state] == 1:
                    gain = novelty(rollout.next_obs[t, n]) - alpha * novelty(rollout.obs[t, n])
                    rewards[t][n] = max(gain, 0.0)
                if rollout.terminated[t, n] or rollout.truncated[t, n]:
                    visits[n].clear()
        everything.append(rewards)
    return everything


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_rewards_equal_the_loops(alpha: float) -> None:
    bonus = NovelD(VECTOR, ACTIONS, alpha=alpha)
    bonus.learn(walk(40, 1, seed=5))
    rollouts = [walk(30, 3, seed=seed, together=False) for seed in range(3)]
    mask = torch.rand(30, 3) < 0.8
    rollouts[1] = replace(rollouts[1], valid=mask)
    expected = reference_rewards(bonus, rollouts, alpha)
    for rollout, wanted in zip(rollouts, expected, strict=True):
        rewards = bonus.score(rollout)
        bonus.advance(rollout)
        torch.testing.assert_close(
            rewards.double(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-4, atol=1e-5
        )
        assert bool(rewards.any()), "nothing was compared"


class _Table(nn.Module):
    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(values)[:, None])

    def forward(self, observations: Tensor) -> Tensor:
        return self.table[observations.long()]


def with_novelty(*values: float, alpha: float = 0.5) -> NovelD:
    """A bonus whose predictor errs by these values, of as many states."""
    tables = iter([_Table([0.0] * len(values)), _Table([*values])])
    return NovelD(
        spaces.Discrete(len(values)), ACTIONS, width=1, alpha=alpha, encoder=lambda *_: next(tables)
    )


def path(*states: int, done: tuple[int, ...] = ()) -> Transition:
    obs = torch.tensor(states)[:, None]
    ends = torch.zeros(len(states) - 1, 1, dtype=torch.bool)
    ends[list(done)] = True
    return Transition(obs[:-1], torch.zeros(len(states) - 1, 1).long(), obs[1:], ends, torch.zeros_like(ends))


def test_values_by_hand() -> None:
    bonus = with_novelty(3.0, -4.0, 1.0)  # novelties 3, 4 and 1
    rewards = bonus.score(path(0, 1, 2, 1, 0, 2))
    # 4 - 3/2; 1 - 4/2 < 0; seen; 3 - 4/2; seen
    assert rewards.flatten().tolist() == [2.5, 0.0, 0.0, 1.0, 0.0]


def test_a_state_counts_again_in_the_next_episode() -> None:
    bonus = with_novelty(0.0, 2.0)
    rollout = path(0, 1, 0, 1, 0, 1, done=(2,))  # the row that ends is scored before the visits are cleared
    assert bonus.score(rollout).flatten().tolist() == [2.0, 0.0, 0.0, 0.0, 2.0]
    bonus.advance(rollout)
    assert bonus.score(path(0, 1)).item() == 0, "the episode goes on in the next rollout"
    bonus.clear_episodes()
    assert bonus.score(path(0, 1)).item() == 2


def test_the_first_rollout_scores_zero_yet_its_visits_count() -> None:
    bonus, rollout = NovelD(VECTOR, ACTIONS), walk(8, 2)
    endless = replace(
        rollout, terminated=torch.zeros(8, 2, dtype=torch.bool), truncated=torch.zeros(8, 2, dtype=torch.bool)
    )
    assert not bool(bonus.score(endless).any())
    bonus.update(endless)
    assert bonus.ready
    assert not bool(bonus.score(endless).any()), "all states of this episode were visited"
    bonus.clear_episodes()
    assert bool(bonus.score(endless).any())


def test_bins_make_states_coarse() -> None:
    space = spaces.Box(0, 1, (1,))
    obs = torch.tensor([0.1, 0.6, 0.11, 0.61])[:, None, None]
    ends = torch.zeros(3, 1, dtype=torch.bool)
    rollout = Transition(obs[:-1], torch.zeros(3, 1).long(), obs[1:], ends, ends)
    fine, coarse = NovelD(space, ACTIONS, alpha=0), NovelD(space, ACTIONS, alpha=0, bins=2)
    for bonus in (fine, coarse):
        bonus.learn(rollout)
    assert (fine.score(rollout) > 0).flatten().tolist() == [True, True, True]
    assert (coarse.score(rollout) > 0).flatten().tolist() == [True, True, False]


def test_its_options_reach_the_random_networks() -> None:
    bonus = NovelD(
        VECTOR,
        ACTIONS,
        width=5,
        hidden=(7,),
        lr=0.5,
        epochs=3,
        minibatches=2,
        update_proportion=0.25,
    )
    assert bonus.rnd.target.body[0].out_features == 7
    assert bonus.rnd.target.body[-1].out_features == 5
    assert (bonus.rnd.epochs, bonus.rnd.n_minibatches, bonus.rnd.update_proportion) == (3, 2, 0.25)
    assert bonus.rnd.optimizer is not None
    assert bonus.rnd.optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf")])
def test_bad_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"`alpha` must be a finite number .* got {alpha}"):
        NovelD(VECTOR, ACTIONS, alpha=alpha)
