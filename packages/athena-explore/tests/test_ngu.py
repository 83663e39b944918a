"""NGU against loops in float64, values by hand, its memory and its life-long factor."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from athena_explore import NGU, EpisodicSimilarity, Transition
from athena_explore._bonus_laws import ACTIONS, VECTOR, walk


class ReferenceMemory:
    """One environment's episodic reward, a state at a time, in Python's floats."""

    def __init__(self, similarity: EpisodicSimilarity) -> None:
        self.similarity, self.states = similarity, []
        self.total, self.terms = 0.0, 0

    def put(self, state: np.ndarray) -> None:
        self.states = [*self.states, state][-self.similarity.capacity :]

    def reward(self, start: np.ndarray, state: np.ndarray) -> float:
        s = self.similarity
        if not self.states:
            self.put(start)
        nearest = sorted(float(((state - other) ** 2).sum()) for other in self.states)[: s.neighbours]
        self.total, self.terms = self.total + sum(nearest), self.terms + len(nearest)
        mean = self.total / self.terms
        kernel = 0.0
        for square in nearest:
            distance = max((square / mean if mean > 0 else 0.0) - s.cluster, 0.0)
            kernel += s.epsilon / (distance + s.epsilon)
        similar = math.sqrt(kernel) + s.constant
        self.put(state)
        return 0.0 if similar > s.largest else 1 / similar


def reference_rewards(
    memories: list[ReferenceMemory], phi_t: np.ndarray, phi_tp1: np.ndarray, rollout: Transition
) -> np.ndarray:
    """One environment after the other; the memories go on from one rollout to the next."""
    rewards = np.zeros(rollout.shape)
    for n, memory in enumerate(memories):
        for t in range(len(rewards)):
            if rollout.valid[t, n]:
                rewards[t, n] = memory.reward(phi_t[t, n], phi_tp1[t, n])
                if rollout.terminated[t, n] or rollout.truncated[t, n]:
                    memory.states = []
    return rewards


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.008, 0.5]),
    st.sampled_from([1e-4, 1e-1]),
    st.sampled_from([0.9, 8.0]),
    st.integers(0, 99),
)
@settings(max_examples=25)
def test_episodic_rewards_equal_the_loops(
    neighbours: int, capacity: int, cluster: float, epsilon: float, largest: float, seed: int
) -> None:
    similarity = EpisodicSimilarity(
        neighbours=neighbours, capacity=capacity, cluster=cluster, epsilon=epsilon, largest=largest
    )
    bonus = NGU(VECTOR, ACTIONS, width=3, encoder=nn.Identity(), similarity=similarity)
    memories = [ReferenceMemory(similarity) for _ in range(3)]
    draw = np.random.default_rng(seed)
    for part in range(3):
        rollout = walk(10, 3, seed=seed + part, together=False)
        # off the lattice, where no two distances tie at the edge of what is similar enough
        moved = torch.as_tensor(0.1 * draw.random((2, 10, 3, 3), np.float32))
        obs, next_obs = rollout.obs + moved[0], rollout.next_obs + moved[1]
        valid = torch.as_tensor(draw.random((10, 3)) < 0.8)
        rollout = replace(rollout, obs=obs, next_obs=next_obs, valid=valid)
        expected = reference_rewards(memories, obs.double().numpy(), next_obs.double().numpy(), rollout)
        rewards = bonus.score(rollout).double()
        torch.testing.assert_close(rewards, torch.tensor(expected), rtol=1e-3, atol=1e-5)
        bonus.advance(rollout)
        held = [len(memory.states) for memory in memories]
        assert bonus.memory["features"].shape == (3, max(held), 3), "memory is what the longest episode has"
    for n, memory in enumerate(memories):
        kept = bonus.memory["features"][n, : held[n]].double()
        torch.testing.assert_close(
            kept.sort(0).values, torch.tensor(np.array(memory.states).reshape(-1, 3)).sort(0).values
        )


def test_many_distances_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    bonus, rollout = NGU(VECTOR, ACTIONS), walk(30, 2, together=False)
    bonus.advance(walk(30, 2, seed=1, together=False))
    whole = bonus.score(rollout)
    for chunk in (1, 200, 1000):
        monkeypatch.setattr("athena_explore._ngu_memory._CHUNK", chunk)
        torch.testing.assert_close(bonus.score(rollout.map(torch.clone)), whole)


@pytest.mark.parametrize(("steps", "environments"), [(0, 2), (3, 0), (0, 0), (1, 1)])
def test_small_and_empty_rollouts(steps: int, environments: int) -> None:
    bonus, rollout = NGU(VECTOR, ACTIONS), walk(3, 2)[:steps, :environments]
    for _ in range(2):
        assert bonus.score(rollout).shape == (steps, environments)
        bonus.update(rollout)


def test_strides_do_not_matter() -> None:
    bonus, rollout = NGU(VECTOR, ACTIONS), walk(8, 4)
    turned = rollout.map(lambda one: one.transpose(0, 1).contiguous().transpose(0, 1))
    assert not turned.obs.is_contiguous()
    torch.testing.assert_close(bonus.score(turned), bonus.score(rollout))


def test_trained_features_are_those_that_are_compared() -> None:
    bonus = NGU(VECTOR, ACTIONS, width=4)
    bonus.update(walk(30, 2))
    bonus.clear_episodes()
    encoder = copy.deepcopy(bonus.features.encoder).double()
    rollout = walk(30, 2, seed=1, together=False)
    phi = [encoder(one.flatten(0, 1).double()).view(30, 2, 4) for one in (rollout.obs, rollout.next_obs)]
    memories = [ReferenceMemory(EpisodicSimilarity()) for _ in range(2)]
    expected = reference_rewards(memories, *(one.detach().numpy() for one in phi), rollout)
    torch.testing.assert_close(bonus.score(rollout).double(), torch.tensor(expected), rtol=1e-3, atol=1e-5)


def line(*places: float, done: tuple[int, ...] = (), cut: tuple[int, ...] = ()) -> Transition:
    obs = torch.tensor(places).float()[:, None, None]
    terminated = torch.zeros(len(places) - 1, 1, dtype=torch.bool)
    truncated = terminated.clone()
    terminated[list(done)], truncated[list(cut)] = True, True
    return Transition(obs[:-1], torch.zeros(len(places) - 1, 1).long(), obs[1:], terminated, truncated)


def on_a_line(**constants: float) -> NGU:
    """Features are the places themselves."""
    similarity = EpisodicSimilarity(**{"epsilon": 1.0, "cluster": 0.0, "constant": 0.5, **constants})
    space = spaces.Box(-99, 99, (1,))
    return NGU(space, ACTIONS, width=1, encoder=nn.Identity(), similarity=similarity)


def test_values_by_hand() -> None:
    bonus = on_a_line(neighbours=1)
    rewards = bonus.score(line(0, 1, 1, 3)).flatten()
    # squared distances 1, 0, 4; their running means 1, 1/2, 5/3; K = 1/(1+1), 1, 1/(12/5 + 1)
    expected = [1 / (0.5 + similar**0.5) for similar in (1 / 2, 1, 5 / 17)]
    torch.testing.assert_close(rewards, torch.tensor(expected))


def test_a_memory_smaller_than_the_neighbourhood_has_fewer_terms() -> None:
    rewards = on_a_line(neighbours=10).score(line(0, 2, 4)).flatten()
    # 4; then 16 and 4, of mean 8: K = 1/3 and 2/3
    expected = [1 / (0.5 + 0.5**0.5), 1 / (0.5 + 1)]
    torch.testing.assert_close(rewards, torch.tensor(expected))


def test_states_in_one_cluster_are_the_same() -> None:
    near = on_a_line(neighbours=1, cluster=2.0).score(line(0, 1))  # 1/1 - 2 < 0: K = 1
    assert near.item() == pytest.approx(1 / 1.5)


def test_too_similar_a_state_has_no_reward() -> None:
    assert on_a_line(neighbours=1, largest=1.4).score(line(0, 1, 1)).flatten().tolist()[1] == 0


def test_standing_still_from_the_start_is_finite() -> None:
    rewards = on_a_line(neighbours=2).score(line(5, 5, 5)).flatten()  # all distances 0 / 0
    torch.testing.assert_close(rewards, torch.tensor([1 / 1.5, 1 / (0.5 + 2**0.5)]))


@pytest.mark.parametrize("end", ["done", "cut"])
def test_both_ends_clear_the_memory_after_the_last_state_was_scored(end: str) -> None:
    far = on_a_line(neighbours=1, epsilon=1e-6)
    rewards = far.score(line(0, 1, 0, 1, 0, **{end: (2,)})).flatten()
    # 1 is new; 0 and 1 are known, also where the episode ends; then 1 is the start and 0 is new again
    assert (rewards > 1.5).tolist() == [True, False, False, True]
    rollout = line(0, 1, **{end: (0,)})
    far.advance(rollout)
    assert far.memory["features"].shape == (1, 0, 1)
    assert far.score(line(0, 1)).item() > 1.5


def test_the_oldest_state_makes_room() -> None:
    few, many = on_a_line(neighbours=1, epsilon=1e-6, capacity=2), on_a_line(neighbours=1, epsilon=1e-6)
    there_and_back = line(0, 3, 6, 9, 0)
    assert few.score(there_and_back)[-1].item() > 1.5, "0 was forgotten"
    assert many.score(there_and_back)[-1].item() < 1, "0 is remembered"
    for _ in range(5):
        few.advance(there_and_back)
    assert few.memory["features"].shape == (1, 2, 1)


def endless(rollout: Transition) -> Transition:
    no = torch.zeros_like(rollout.terminated)
    return replace(rollout, terminated=no, truncated=no)


def test_memory_is_bounded_as_documented() -> None:
    bonus = NGU(VECTOR, ACTIONS, width=8, similarity=EpisodicSimilarity(capacity=50))
    for seed in range(20):
        bonus.advance(endless(walk(20, 2, seed=seed)))
    assert bonus.memory["features"].nbytes == 2 * 50 * 8 * 4


def test_the_life_long_factor_is_its_formula_in_its_range() -> None:
    bonus = NGU(VECTOR, ACTIONS, largest=1.5)
    seen = [walk(64, 2, seed=seed) for seed in range(4)]
    errors: list[Tensor] = []
    for rollout in seen:
        if bonus.rnd.ready:
            errors.append(bonus.rnd.errors(rollout.next_obs.flatten(0, 1)).detach().double())
        bonus.update(rollout)
    every = torch.cat(errors)
    places = torch.randn(500, 3) * 2
    error = bonus.rnd.errors(places).detach().double()
    expected = (1 + (error - every.mean()) / every.std(correction=0)).clamp(1, 1.5)
    factor = bonus.life_long(places).double()
    torch.testing.assert_close(factor, expected, rtol=1e-3, atol=1e-3)
    assert factor.min() == 1
    assert factor.max() == 1.5
    assert bool(((factor > 1) & (factor < 1.5)).any()), "the life-long term does nothing"


def test_the_reward_is_the_episodic_one_times_the_factor() -> None:
    bonus = NGU(VECTOR, ACTIONS, largest=5)
    rollout = walk(30, 2)
    torch.testing.assert_close(bonus.life_long(rollout.next_obs.flatten(0, 1)), torch.ones(60))
    for seed in range(4):
        bonus.update(walk(30, 2, seed=seed))
    factor = bonus.life_long(rollout.next_obs.flatten(0, 1)).view(30, 2)
    combined = bonus.score(rollout)
    bonus.largest = 1  # the factor is 1
    again = rollout.map(torch.clone)
    torch.testing.assert_close(combined, bonus.score(again) * factor)
    assert bool((factor > 1).any())


def test_what_is_novel_for_life_has_a_higher_factor() -> None:
    bonus = NGU(spaces.Box(-9, 9, (2,)), ACTIONS, lr=3e-3)
    known = torch.randn(256, 1, 2) * 0.1
    ends = torch.zeros(256, 1, dtype=torch.bool)
    for _ in range(20):
        bonus.update(Transition(known, torch.zeros(256, 1).long(), known.flip(0), ends, ends))
    assert float(bonus.life_long(known[:, 0]).mean()) < 1.2
    assert float(bonus.life_long(known[:, 0] + 3).mean()) > 2


def test_features_learn_to_tell_actions_and_nothing_else_trains_them() -> None:
    bonus = NGU(VECTOR, ACTIONS, lr=3e-3)
    rollout = walk(100, 1)
    losses = [bonus.update(rollout) for _ in range(30)]
    assert losses[-1]["inverse_loss"] < losses[0]["inverse_loss"] / 2
    assert losses[-1]["prediction_error"] < losses[0]["prediction_error"] / 2
    assert bonus.optimizer is not None
    assert bonus.rnd.optimizer is not None
    ours = {id(p) for group in bonus.optimizer.param_groups for p in group["params"]}
    theirs = {id(p) for group in bonus.rnd.optimizer.param_groups for p in group["params"]}
    assert not ours & theirs
    assert ours == {id(p) for p in (*bonus.features.parameters(), *bonus.inverse_model.parameters())}


def test_observations_are_normalised_where_asked() -> None:
    bonus, rollout = NGU(VECTOR, ACTIONS, normalize_observations=True), endless(walk(30, 2))
    assert not bool(bonus.score(rollout).any())
    bonus.update(rollout)
    assert int(bonus.memory["held"].sum()) > 0, "a rollout without rewards is remembered all the same"
    assert bool(bonus.score(rollout).all())


def test_its_options_reach_the_networks() -> None:
    bonus = NGU(VECTOR, ACTIONS, width=5, hidden=(7,), rnd_width=9, lr=0.5, epochs=3, minibatches=2)
    assert bonus.features.encoder.body[0].out_features == 7
    assert bonus.features.width == 5
    assert bonus.rnd.target.body[-1].out_features == 9
    assert (bonus.rnd.epochs, bonus.rnd.n_minibatches, bonus.epochs, bonus.n_minibatches) == (3, 2, 3, 2)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`largest` must be a finite number of at least 1; got 0\.5"):
        NGU(VECTOR, ACTIONS, largest=0.5)
    for name in ("neighbours", "capacity"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1; got 0"):
            EpisodicSimilarity(**{name: 0})
    for name in ("epsilon", "constant", "largest"):
        with pytest.raises(ValueError, match=f"`{name}` must be positive; got 0.0"):
            EpisodicSimilarity(**{name: 0.0})
    with pytest.raises(ValueError, match="`cluster` must be at least 0; got nan"):
        EpisodicSimilarity(cluster=float("nan"))
