"""What all bonuses share: transitions, moments, normalisers, encoders, and the refusals."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from athena_explore import (
    Bonus,
    Encoder,
    ImageFeatures,
    Memory,
    Moments,
    ObservationNormalizer,
    PseudoCounts,
    ReturnNormalizer,
    RunningMoments,
    Scored,
    Sum,
    Transition,
)
from athena_explore._bonus_laws import walk

VECTOR = spaces.Box(-4, 4, (3,), np.float32)
ACTIONS = spaces.Discrete(3)


class Given(Bonus):
    """Rewards that the test chooses."""

    value = 1.0

    def _score(self, transition: Transition) -> Scored:
        return Scored(torch.full(transition.shape, self.value))


class Noisy(Bonus):
    """One dropout layer, trained."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        with self.own_random():
            self.net = torch.nn.Sequential(
                torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
            )
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.01)

    def _score(self, transition: Transition) -> Scored:
        return Scored(self.net(transition.next_obs)[..., 0])

    def _learn(self, samples: Transition) -> dict[str, float]:
        loss = self.net(samples.next_obs).square().mean()
        self.step(loss)
        return {"loss": float(loss.detach())}


def test_a_transition_refuses_shapes_that_do_not_agree() -> None:
    ends = torch.zeros(4, 2, dtype=torch.bool)
    obs = torch.zeros(4, 2, 3)
    with pytest.raises(ValueError, match=r"`action` must begin with .*\(4, 2\); got \(2, 4\)"):
        Transition(obs, torch.zeros(2, 4), obs, ends, ends)


def test_flat_keeps_valid_rows_in_order_of_time() -> None:
    rollout = walk(5, 3, together=False)
    valid = torch.rand(5, 3) < 0.5
    flat = Transition(
        rollout.obs, rollout.action, rollout.next_obs, rollout.terminated, rollout.truncated, valid
    ).flat()
    expected = [rollout.next_obs[t, n] for t in range(5) for n in range(3) if valid[t, n]]
    assert torch.equal(flat.next_obs, torch.stack(expected))
    assert bool(flat.valid.all())


def test_done_is_either_end_of_a_valid_row() -> None:
    ends = torch.tensor([[True, False, True]])
    obs = torch.zeros(1, 3, 1)
    rollout = Transition(obs, obs, obs, ends, ~ends, torch.tensor([[True, True, False]]))
    assert rollout.done.tolist() == [[True, True, False]]


@pytest.mark.parametrize("rows", [[2, 0], [-1, 0], []])
def test_rows_are_chosen_by_numbers_from_either_end(rows: list[int]) -> None:
    obs, ends = torch.randn(3, 2), torch.zeros(3, dtype=torch.bool)
    numbers = torch.tensor(rows, dtype=torch.int64)
    assert torch.equal(Transition({"a": obs}, obs, {"a": obs}, ends, ends)[numbers].next_obs["a"], obs[rows])


class Frozen(torch.nn.Dropout):
    """Stays in evaluation, as its own ``train`` says."""

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


def test_scores_are_of_evaluation_and_modules_keep_their_own_mode() -> None:
    bonus, obs, ends = Noisy(VECTOR, ACTIONS), torch.randn(4, 2, 3), torch.zeros(4, 2, dtype=torch.bool)
    bonus.net.append(Frozen())
    modes = [module.training for module in bonus.train().modules()]
    seen = []
    bonus.net.register_forward_hook(lambda net, *_: seen.append([part.training for part in net]))
    bonus.score(Transition(obs, torch.zeros(4, 2), obs, ends, ends))
    assert seen == [[False] * 4]
    assert [module.training for module in bonus.modules()] == modes
    assert modes.count(False) == 1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 1000))
def test_moments_of_pieces_are_those_of_the_whole(sizes: list[int], seed: int) -> None:
    data = torch.randn(sum(sizes), 2, generator=torch.Generator().manual_seed(seed)) * 3 + 100
    running = RunningMoments((2,))
    for piece in data.split(sizes):
        running.update(piece)
    whole = Moments.of(data.double())
    assert int(running.count) == sum(sizes)
    torch.testing.assert_close(running.mean.double(), whole.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(running.variance.double(), whole.variance, rtol=1e-4, atol=1e-4)


def reference_scaled(
    rewards: np.ndarray, valid: np.ndarray, gamma: float, seen: list[float], last: np.ndarray
):
    """Loops in float64: the filter of each environment, over the deviation of all its values so far."""
    for t in range(len(rewards)):
        for n in range(rewards.shape[1]):
            if valid[t, n]:
                last[n] = gamma * last[n] + rewards[t, n]
                seen.append(last[n])
    return rewards / np.std(seen)


@pytest.mark.parametrize(("steps", "environments"), [(16, 3), (3, 16), (8, 8)])
def test_return_normalizer_equals_loops(steps: int, environments: int) -> None:
    normalizer, draw = ReturnNormalizer(gamma=0.9), np.random.default_rng(0)
    seen, last = [], np.zeros(environments)
    for _ in range(4):
        rewards, valid = draw.random((steps, environments)), draw.random((steps, environments)) < 0.8
        expected = reference_scaled(rewards, valid, 0.9, seen, last)
        scaled, after = normalizer(torch.tensor(rewards), torch.tensor(valid))
        normalizer.commit(after)
        np.testing.assert_allclose(scaled.numpy(), expected, rtol=1e-5)


def test_return_normalizer_keeps_the_sign_and_the_mean() -> None:
    scaled, _ = ReturnNormalizer()(torch.tensor([[1.0], [3.0]]), torch.ones(2, 1, dtype=torch.bool))
    assert bool((scaled > 0).all())
    assert float(scaled[1] / scaled[0]) == pytest.approx(3)


def test_return_normalizer_leaves_equal_rewards_of_no_discount() -> None:
    scaled, _ = ReturnNormalizer(gamma=0.0)(torch.full((4, 2), 7.0), torch.ones(4, 2, dtype=torch.bool))
    assert scaled.unique().tolist() == [7.0]
    with pytest.raises(ValueError, match=r"`gamma` must lie in \[0, 1\); got 1"):
        ReturnNormalizer(gamma=1.0)


def test_a_bonus_scales_by_the_return_and_goes_on_with_it() -> None:
    bonus = Given(VECTOR, ACTIONS, normalize="return", gamma=0.5)
    reference = ReturnNormalizer(gamma=0.5)
    for seed in range(3):
        rollout, bonus.value = walk(5, 2, seed=seed), 1.0 + seed
        expected, after = reference(torch.full((5, 2), bonus.value), rollout.valid)
        reference.commit(after)
        torch.testing.assert_close(bonus.score(rollout), expected)
        bonus.update(rollout)
    torch.testing.assert_close(bonus.score_samples(rollout.flat()), reference.scale(torch.full((10,), 3.0)))


def test_observations_are_centred_scaled_and_clipped_per_feature() -> None:
    normalizer = ObservationNormalizer(spaces.Box(-99, 99, (2,)))
    assert not normalizer.ready
    normalizer.update(torch.tensor([[0.0, 7.0], [4.0, 7.0]]))
    assert normalizer.ready
    found = normalizer(torch.tensor([[4.0, 9.0], [99.0, 7.0]]))
    assert found.tolist() == [[1.0, 2.0], [5.0, 0.0]]  # the second feature never moved: only centred


def test_discrete_parts_of_a_dictionary_stay_as_they_are() -> None:
    space = spaces.Dict({"box": spaces.Box(-9, 9, (1,)), "kind": spaces.Discrete(3)})
    normalizer = ObservationNormalizer(space)
    normalizer.update({"box": torch.tensor([[0.0], [2.0]]), "kind": torch.tensor([0, 2])})
    found = normalizer({"box": torch.tensor([[2.0]]), "kind": torch.tensor([2])})
    assert found["box"].tolist() == [[1.0]]
    assert found["kind"].tolist() == [2]


def test_images_are_read_in_both_layouts() -> None:
    first = Encoder(spaces.Box(0, 255, (3, 40, 40), np.uint8), 5)
    last = Encoder(spaces.Box(0, 255, (40, 40, 3), np.uint8), 5)
    last.load_state_dict(first.state_dict())
    images = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    torch.testing.assert_close(first(images), last(images.movedim(1, 3)))
    torch.testing.assert_close(first(images), first(images / 255))


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (35, 35), (36, 36), (84, 84)])
def test_image_features_know_their_width(size: tuple[int, int]) -> None:
    features = ImageFeatures(3, *size)
    assert features(torch.zeros(2, 3, *size)).shape == (2, features.width)


def test_memory_moves_with_its_module() -> None:
    memory = Memory()
    memory["floats"] = torch.ones(2)
    memory.double()
    assert memory["floats"].dtype == torch.float64
    assert "floats" in memory
    assert list(memory) == ["floats"]
    memory.clear()
    assert memory.get("floats") is None


def test_memory_holds_no_more_than_what_was_put_in() -> None:
    memory, rollout = Memory(), torch.rand(1000, 4)
    memory["last"] = rollout[-1]
    rollout[-1] = 0
    assert memory["last"].untyped_storage().nbytes() == 16
    assert memory["last"].all()


def test_dropout_draws_from_the_bonus_alone() -> None:
    one, other = (Noisy(VECTOR, ACTIONS, seed=5) for _ in range(2))
    rollout = walk(6, 2)
    before = torch.get_rng_state()
    first = one.update(rollout)
    torch.rand(7)  # the global generator is elsewhere now
    torch.set_rng_state(before)
    torch.manual_seed(123)
    assert other.update(rollout) == first
    assert torch.equal(one.score(rollout), other.score(rollout))
    assert one.training, "scoring left the bonus in eval mode"


def test_another_seed_gives_another_bonus() -> None:
    rollout = walk(6, 2)
    assert not torch.equal(*(Noisy(VECTOR, ACTIONS, seed=seed).score(rollout) for seed in (0, 1)))


def test_a_growing_bonus_warns_once_with_its_value() -> None:
    bonus, rollout = Given(VECTOR, ACTIONS), walk(3, 2)
    bonus.value = 2e6
    with pytest.warns(UserWarning, match=r"Given grew to 2e\+06, beyond 1e\+06; lower"):
        bonus.update(rollout)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bonus.update(rollout)


def test_a_bonus_that_is_no_number_raises() -> None:
    bonus = Given(VECTOR, ACTIONS)
    bonus.value = float("nan")
    with pytest.raises(FloatingPointError, match=r"the bonus of Given must be finite; got nan\. Lower"):
        bonus.update(walk(3, 2))


def test_a_bonus_that_is_no_number_enters_nothing() -> None:
    class Remembering(Given):
        def _commit(self, transition: Transition, after: object) -> None:
            last = self.memory.get("rollouts")
            self.memory["rollouts"] = torch.ones(()) if last is None else last + 1

    bonus = Remembering(VECTOR, ACTIONS, normalize="return")
    bonus.update(walk(3, 2))
    before = bonus.normalizer.moments.value
    before = [moment.clone() for moment in before]
    bonus.value = float("inf")
    with pytest.raises(FloatingPointError, match="got inf"):
        bonus.update(walk(3, 2))
    assert float(bonus.memory["rollouts"]) == 1
    torch.testing.assert_close(list(bonus.normalizer.moments.value), before, rtol=0, atol=0)


def test_rows_that_only_reset_do_not_warn() -> None:
    class Huge(Given):
        def _score(self, transition: Transition) -> Scored:
            return Scored(torch.where(transition.valid, 1.0, torch.inf))

    rollout = walk(3, 2)
    valid = torch.tensor([[True, True], [True, False], [True, True]])
    bonus = Huge(VECTOR, ACTIONS)
    padded = replace(rollout, valid=valid)
    assert bonus.score(padded).tolist() == valid.float().tolist()
    bonus.update(padded)


def test_rewards_of_the_wrong_shape_are_refused() -> None:
    class Narrow(Bonus):
        def _score(self, transition: Transition) -> Scored:
            return Scored(torch.zeros(transition.shape[0], 1))

        def _score_samples(self, samples: Transition) -> torch.Tensor:
            return torch.zeros(len(samples.terminated), 1)

    bonus, rollout = Narrow(VECTOR, ACTIONS), walk(4, 2)
    with pytest.raises(ValueError, match=r"`_score` of Narrow must.*\(4, 2\); got \(4, 1\)\. Give"):
        bonus.score(rollout)
    with pytest.raises(ValueError, match=r"`_score_samples` of Narrow must.*\(8,\); got \(8, 1\)\. Give"):
        bonus.score_samples(rollout.flat())
    normalizer, valid = ReturnNormalizer(), torch.ones(4, 2, dtype=torch.bool)
    for wrong in (torch.ones(2, 4), torch.ones(4), torch.ones(4, 2, 1)):
        with pytest.raises(ValueError, match=r"`rewards` must have the shape of `valid`.*\(4, 2\); got"):
            normalizer(wrong, valid)
    normalizer.commit(normalizer(torch.ones(4, 2), valid)[1])
    with pytest.raises(ValueError, match=r"`rewards` must be of 2 environments.*got 3\. Call"):
        normalizer(torch.ones(4, 3), torch.ones(4, 3, dtype=torch.bool))


def test_errors_take_one_line_also_of_spaces_with_many_bounds() -> None:
    bounds = np.arange(1, 61, dtype=np.float32)
    space, ends = spaces.Box(-bounds, bounds), torch.zeros(1, 1, dtype=torch.bool)
    other = Given(space, spaces.Discrete(4))
    narrow = torch.zeros(1, 1, 3)
    bonus = Given(space, ACTIONS)
    for refused in (
        lambda: bonus.score(Transition(narrow, torch.zeros(1, 1), narrow, ends, ends)),
        lambda: bonus.load_state_dict(other.state_dict()),
        lambda: Given(spaces.Dict({"x": spaces.Sequence(space)}), ACTIONS),
        lambda: Sum(space, ACTIONS, parts=[other]),
    ):
        with pytest.raises(ValueError, match=r"; got .*\. [A-Z]") as error:
            refused()
        assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_kind_names_what_is_missing() -> None:
    with pytest.raises(RuntimeError, match=r"Missing key.*net\.0\.weight"):
        Noisy(VECTOR, ACTIONS).load_state_dict(Given(VECTOR, ACTIONS).state_dict())


def test_a_refused_checkpoint_changes_nothing() -> None:
    space, zero, ends = spaces.Discrete(5), torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.bool)
    bonus, other = PseudoCounts(space, ACTIONS), PseudoCounts(space, spaces.Discrete(2))
    other.update(Transition(zero, zero, zero, ends, ends))
    with pytest.raises(ValueError, match="the checkpoint must be of a bonus of the spaces"):
        bonus.load_state_dict(other.state_dict())
    assert not bonus.counts.any()


def test_what_is_not_supported_is_named() -> None:
    with pytest.raises(ValueError, match=r"`observation_space\['x'\]` must be of Box.*got Sequence"):
        Given(spaces.Dict({"x": spaces.Sequence(VECTOR)}), ACTIONS)
    with pytest.raises(ValueError, match=r"`action_space` must be of Box"):
        Given(VECTOR, spaces.Text(3))
    with pytest.raises(ValueError, match=r'`normalize` must be "return" or "none"; got "?\'?mean'):
        Given(VECTOR, ACTIONS, normalize="mean")  # pyright: ignore[reportArgumentType]


def test_actions_outside_their_space_are_refused() -> None:
    rollout = walk(3, 2)
    wrong = Transition(
        rollout.obs, rollout.action + 5, rollout.next_obs, rollout.terminated, rollout.truncated
    )
    with pytest.raises(ValueError, match=r"`action` must lie in Discrete\(3\); got [5-7]\. Mend"):
        Given(VECTOR, ACTIONS).score(wrong)
    bits, ends = torch.full((1, 1, 2), 2), torch.zeros(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"`obs` must lie in MultiBinary\(2\); got 2\. Mend"):
        Given(spaces.MultiBinary(2), ACTIONS).score(Transition(bits, torch.zeros(1, 1), bits, ends, ends))


def test_a_missing_part_of_a_dictionary_is_named() -> None:
    space = spaces.Dict({"a": VECTOR, "b": VECTOR})
    ends, obs = torch.zeros(1, 1, dtype=torch.bool), {"a": torch.zeros(1, 1, 3)}
    with pytest.raises(ValueError, match=r"`obs` must have the parts of Dict.*'b' is missing"):
        Given(space, ACTIONS).score(Transition(obs, torch.zeros(1, 1), obs, ends, ends))


def test_samples_need_no_order_and_rollouts_do() -> None:
    with pytest.raises(ValueError, match=r"\(steps, environments\); got \(12,\)"):
        Given(VECTOR, ACTIONS).score(walk(6, 2).flat())
