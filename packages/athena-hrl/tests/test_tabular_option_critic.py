"""The tabular option-critic and its baselines: formulas, steps by hand, rows, resume, pitfalls 14 to 19."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import make, make_vec, spaces
from hypothesis import given
from hypothesis import strategies as st

from athena_core.environments import Advanced, Dynamics, NumpyVectorEnv, draw
from athena_hrl import Sarsa, TabularActorCritic, TabularOptionCritic
from athena_hrl import _option_critic_gradients as formulas

SIZE = 5


class Corridor(Dynamics):
    """Left and right in a row of cells; the last one pays 1 and ends; a tenth of the steps stay."""

    observation_space, action_space = spaces.Discrete(SIZE), spaces.Discrete(2)

    def start(self, random):
        return {"random": random, "place": np.zeros(len(random), dtype=np.int64)}

    def advance(self, state, action):
        uniform, random = draw(state["random"], 1)
        place = np.clip(state["place"] + (2 * action - 1) * (uniform[:, 0] > 0.1), 0, SIZE - 1)
        ends = place == SIZE - 1
        return Advanced({"random": random, "place": place}, ends.astype(float), ends)

    def observe(self, state):
        return state["place"].copy()


def corridor(runs: int = 3, *, mode: str = "NextStep", limit: int = 30) -> NumpyVectorEnv:
    return NumpyVectorEnv(Corridor(), runs, autoreset_mode=mode, max_episode_steps=limit)


class Script(Dynamics):
    """State 0 to 1 to 2, whatever the action; rewards 1 and 2; then the end."""

    observation_space, action_space = spaces.Discrete(3), spaces.Discrete(2)

    def start(self, random):
        return {"random": random, "place": np.zeros(len(random), dtype=np.int64)}

    def advance(self, state, action):
        place = np.minimum(state["place"] + 1, 2)
        return Advanced({**state, "place": place}, place.astype(float), place == 2)

    def observe(self, state):
        return state["place"].copy()


def script(**options: Any) -> TabularOptionCritic:
    """One run of a learner whose first option is the best everywhere, and options never end by themselves."""
    made = TabularOptionCritic(
        NumpyVectorEnv(Script(), 1, max_episode_steps=options.pop("limit", None)),
        n_options=2,
        gamma=0.5,
        **{"epsilon": 0.0, "temperature": 1.0, "termination_lr": 0.1, **options},
    )
    made.q_u[:, :, 0], made.q_u[:, :, 1] = 4.0, 2.0
    made.nu[:] = -50.0
    return made


# Formulas.


def numeric_gradient(function: Any, x: np.ndarray) -> np.ndarray:
    gradient = np.empty_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-6
        gradient[place] = (function(x + step) - function(x - step)) / 2e-6
    return gradient


@given(st.integers(1, 5), st.integers(0, 1000))
def test_gradients_are_those_of_finite_differences(n, seed):
    logits = np.random.default_rng(seed).normal(size=(1, n))
    action = np.array([seed % n])
    pi = formulas.softmax(logits)
    wanted = numeric_gradient(lambda x: np.log(formulas.softmax(x)[0, action[0]]), logits)
    np.testing.assert_allclose(formulas.log_policy_gradient(pi, action), wanted, atol=1e-8)

    def entropy(x):
        probabilities = formulas.softmax(x)
        return -(probabilities * np.log(probabilities)).sum()

    np.testing.assert_allclose(formulas.entropy_gradient(pi), numeric_gradient(entropy, logits), atol=1e-8)
    nu, q, v, xi = np.random.default_rng(seed).normal(size=(4, 1))

    def loss(x):
        return float((formulas.sigmoid(x) * (q - v + xi))[0])

    slope = formulas.termination_gradient(formulas.sigmoid(nu), q, v, margin=xi)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(slope, numeric_gradient(loss, nu), atol=1e-8)


@given(st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=1, max_size=5), st.floats(0, 1))
def test_the_value_of_the_soft_choice_is_its_mean(values, epsilon):
    array = np.array([values])
    probabilities = formulas.epsilon_soft(array, epsilon)
    assert probabilities.sum() == pytest.approx(1)
    value = formulas.epsilon_soft_value(array, epsilon)
    assert value[0] == pytest.approx((probabilities * array).sum(), abs=1e-12)


def test_sampling_follows_the_probabilities_and_never_takes_what_cannot_be():
    uniform = np.random.default_rng(0).random(20_000)
    probabilities = np.tile([0.0, 0.2, 0.0, 0.5, 0.3], (20_000, 1))
    shares = np.bincount(formulas.sample_rows(probabilities, uniform), minlength=5) / 20_000
    np.testing.assert_allclose(shares, probabilities[0], atol=0.01)
    assert shares[0] == shares[2] == 0
    assert formulas.sample_rows(np.array([[1.0]]), np.array([np.nextafter(1, 0)])).tolist() == [0]
    assert formulas.sample_rows(np.empty((0, 3)), np.empty(0)).shape == (0,)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_softmax_and_sigmoid_stay_finite(scale):
    logits = scale * np.array([[1.0, -1.0, 0.0]])
    assert np.isfinite(formulas.softmax(logits)).all()
    assert formulas.softmax(logits).sum() == pytest.approx(1)
    assert np.isfinite(formulas.sigmoid(logits)).all()
    np.testing.assert_allclose(formulas.sigmoid(logits) + formulas.sigmoid(-logits), 1)


# Hand-worked steps.


def test_one_step_by_hand():
    """Q_U is 4 and 2 of the options; from state 0 to 1 for reward 1, half of the way at each rate."""
    learner = script(critic_lr=0.5, policy_lr=0.25)
    learner.nu[0, 1, 0] = 0.0  # beta is 1/2
    learner.q_u[0, 1] = [[4.0, 4.0], [8.0, 8.0]]  # the other option is better in state 1: V is 8
    learner.learn(1)
    action = int(np.argmax(learner.q_u[0, 0, 0] != 4.0)) if (learner.q_u[0, 0, 0] != 4).any() else -1
    # U = 4/2 + 8/2 = 6; target 1 + 6/2 = 4: nothing to learn for the critic, nor, with it, for the policy
    assert action == -1
    assert np.abs(learner.theta).max() == 0
    assert learner.nu[0, 1, 0] == pytest.approx(0.0 - 0.1 * 0.25 * (4 - 8))
    learner.learn(1)  # to the end, for reward 2: target 2; option of state 1 was 0 or 1
    option = 0 if learner.q_u[0, 1, 0].min() < 4 else 1
    before = [4.0, 8.0][option]
    taken = int(learner.q_u[0, 1, option].argmin())
    q_u = before + 0.5 * (2 - before)
    assert learner.q_u[0, 1, option, taken] == q_u
    advantage = q_u - (q_u + before) / 2
    assert learner.theta[0, 1, option, taken] == pytest.approx(0.25 * advantage * 0.5)
    assert learner.theta[0, 1, option, 1 - taken] == pytest.approx(-0.25 * advantage * 0.5)


def test_without_a_baseline_the_policy_learns_from_the_value_itself():
    learner = script(baseline=False, policy_lr=1.0, critic_lr=0.0).learn(1)
    assert np.sort(learner.theta[0, 0, 0]).tolist() == [-2.0, 2.0]  # 4 times (1 - 1/2)


def test_entropy_raises_the_entropy():
    """Pitfall 19: the bonus's sign."""
    learner = script(entropy=1.0, policy_lr=0.1, critic_lr=0.0)
    learner.theta[0, 0, 0] = [1.0, -1.0]
    before = learner.pi[0, 0, 0]
    learner.learn(1)
    after = learner.pi[0, 0, 0]
    assert -(after * np.log(after)).sum() > -(before * np.log(before)).sum()


def test_pitfall_14_a_positive_advantage_lowers_beta():
    for better, sign in ((6.0, -1), (1.0, 1)):
        learner = script()
        learner.option[:] = 0
        learner.nu[0, 1, 0] = -4.0
        learner.q_u[0, 1] = [[better] * 2, [3.0] * 2]
        learner.epsilon = 0.5  # V is below the best option's value
        learner.learn(0)
        learner.option[:] = 0
        learner.learn(1)
        assert np.sign(learner.nu[0, 1, 0] + 4.0) == sign


def test_pitfall_15_beta_and_advantage_are_of_the_arrival_and_the_option_that_acted():
    learner = script(margin=1.0)
    learner.nu[0, 1, 0] = 50.0  # ends on arrival in 1, where option 1 is better
    learner.q_u[0, 1] = [[1.0, 1.0], [9.0, 9.0]]
    learner.nu[0, 1, 0] = 1.0
    before = learner.nu.copy()
    learner.learn(0)
    assert learner.option.tolist() == [0]
    learner.learn(1)
    changed = np.argwhere(learner.nu != before)
    assert changed.tolist() == [[0, 1, 0]]  # state 1, not 0; option 0, not the one chosen there
    beta = 1 / (1 + np.exp(-1.0))
    assert learner.nu[0, 1, 0] == pytest.approx(1.0 - 0.1 * beta * (1 - beta) * (1.0 - 9.0 + 1.0))


def test_pitfall_16_v_is_that_of_the_soft_choice():
    learner = script(critic_lr=1.0, epsilon=0.5)
    learner.nu[0, 1] = 50.0
    learner.q_u[0, 1] = [[4.0, 4.0], [8.0, 8.0]]
    learner.learn(1)
    changed = learner.q_u[0, 0][learner.q_u[0, 0] != np.array([[4.0] * 2, [2.0] * 2])]
    assert changed.tolist() == [pytest.approx(1 + 0.5 * (0.5 * 8 + 0.5 * 6))]


@pytest.mark.parametrize("limit", [None, 2], ids=["terminated", "truncated"])
def test_pitfall_17_no_termination_is_learned_at_the_ends_of_an_episode(limit):
    learner = script(limit=limit, margin=1.0)
    learner.nu[:] = -1.0
    learner.learn(1)
    before = learner.nu.copy()
    learner.learn(2)  # the last step, and the reset to the next episode
    assert (learner.nu == before).all()
    learner.learn(1)
    assert (learner.nu != before).any()


def test_a_truncated_episode_goes_on_in_value_and_a_terminated_one_does_not():
    cut = script(limit=1, critic_lr=1.0).learn(1)
    assert cut.q_u[0, 0].max() == 4.0
    assert cut.q_u[0, 0, 0].tolist().count(1 + 0.5 * 4) == 1
    ended = script(critic_lr=1.0).learn(2)
    assert 2.0 in ended.q_u[0, 1, 0]


def test_sarsa_learns_by_hand_and_a_truncation_goes_on_in_value():
    """From 0 to 1 for 1, then the end: by the limit of one step, or for 2 where the script ends."""
    for limit, wanted in ((1, [1 + 0.5 * 4.0, 4.0]), (2, [1 + 0.5 * 4.0, 2.0])):
        learner = Sarsa(NumpyVectorEnv(Script(), 1, max_episode_steps=limit), gamma=0.5, lr=1.0)
        learner.q[:] = 4.0
        learner.learn(limit)
        assert learner.q[0].min(axis=1)[:2].tolist() == wanted


@pytest.mark.parametrize("kind", [TabularOptionCritic, TabularActorCritic, Sarsa])
def test_an_environment_that_does_not_reset_itself_raises(kind):
    with pytest.raises(ValueError, match=r"`env` must reset itself; got .*DISABLED"):
        kind(corridor(mode="Disabled"))


@pytest.mark.parametrize("beta", [50.0, -50.0], ids=["ends", "stays"])
def test_pitfall_18_the_cost_is_paid_at_a_switch_and_not_at_an_end(beta):
    learner = script(deliberation_cost=0.25, critic_lr=1.0)
    learner.nu[:] = beta
    learner.learn(2)
    paid = 0.25 if beta > 0 else 0.0
    first = learner.q_u[0, 0, 0][learner.q_u[0, 0, 0] != 4.0]
    assert first.tolist() == [1 - paid + 0.5 * 4.0]
    last = learner.q_u[0, 1, 0][learner.q_u[0, 1, 0] != 4.0]
    assert last.tolist() == [2.0]  # the episode's end is no switch


def test_pitfall_18_the_margin_lowers_beta():
    learner = script(margin=0.5)
    learner.nu[0, 1, 0] = 0.0
    learner.learn(1)
    assert learner.nu[0, 1, 0] == pytest.approx(-0.1 * 0.25 * 0.5)  # Q is V: only the margin is left


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_pitfall_19_one_option_is_an_actor_critic_number_by_number(mode):
    options: dict[str, Any] = {"temperature": 0.5, "entropy": 0.01, "seed": 3}
    flat = TabularActorCritic(corridor(mode=mode), **options).learn(700)
    one = TabularOptionCritic(corridor(mode=mode), n_options=1, **options)
    one.nu[:] = 50.0  # it always ends
    one.learn(700)
    assert (one.beta == 1).all()
    assert (one.q_u[:, :, 0] == flat.q).all()
    assert (one.theta[:, :, 0] == flat.theta).all()
    assert (one.lengths == flat.lengths).all()
    assert flat.episodes.min() > 20


def test_pitfall_19_use_is_counted():
    learner = TabularOptionCritic(corridor(), n_options=3, epsilon=0.5).learn(200)
    usage = learner.usage
    assert usage.steps.sum() == int(learner.lengths.sum() + learner.elapsed.sum())
    assert usage.effective_options > 1.5
    alone = TabularOptionCritic(corridor(), n_options=3, epsilon=0.0)
    alone.q_u[:, :, 1] = 1.0
    alone.critic_lr = 0.0
    assert alone.learn(100).usage.collapse == "one option"


# Rows, modes, resume.


@pytest.mark.parametrize("kind", [TabularOptionCritic, TabularActorCritic, Sarsa])
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_row_is_the_run_of_its_seed_alone(kind, mode):
    many = kind(corridor(4, mode=mode), seed=5).learn(300)
    for row in (0, 3):
        alone = kind(corridor(1, mode=mode), seed=5 + row).learn(300)
        for name in kind.tables:
            assert (getattr(many, name)[row] == getattr(alone, name)[0]).all(), name
        assert (many.lengths[row][: alone.episodes[0]] == alone.lengths[0]).all()
        assert many.episodes[row] == alone.episodes[0] > 5
    assert len({tuple(row) for row in many.lengths}) == 4


@pytest.mark.parametrize("kind", [TabularOptionCritic, TabularActorCritic, Sarsa])
def test_a_resumed_learner_equals_an_uninterrupted_one(kind):
    for cut in (0, 7, 128, 150):
        whole = kind(corridor(), seed=1).learn(300)
        first = kind(corridor(), seed=1).learn(cut)
        second = kind(corridor(), seed=1)
        second.load_state_dict(first.state_dict())
        second.learn(300 - cut)
        for name in ("lengths", *kind.tables):
            assert (getattr(whole, name) == getattr(second, name)).all(), (cut, name)


def test_an_environment_without_a_state_begins_new_episodes():
    first = Sarsa(make_vec("FrozenLake-v1", 2)).learn(20)
    second = Sarsa(make_vec("FrozenLake-v1", 2))
    second.load_state_dict(first.state_dict())
    assert (second.q == first.q).all()
    assert second.learn(1).elapsed.tolist() == [1, 1]


def test_learning_in_parts_is_learning_at_once():
    parts, whole = (TabularOptionCritic(corridor(), seed=2) for _ in range(2))
    for steps in (1, 0, 99, 100):
        parts.learn(steps)
    assert (whole.learn(200).q_u == parts.q_u).all()


@pytest.mark.parametrize(
    "learner",
    [
        lambda env: TabularOptionCritic(env, temperature=0.1),
        lambda env: TabularActorCritic(env, temperature=0.1),
        lambda env: Sarsa(env, lr=0.2),
    ],
    ids=["option-critic", "actor-critic", "sarsa"],
)
def test_each_learns_the_corridor(learner):
    learned = learner(corridor(20)).learn(3000)
    assert learned.lengths[:, :5].mean() > 9
    rows = zip(learned.lengths, learned.episodes, strict=True)
    late = np.concatenate([row[count - 10 : count] for row, count in rows])
    assert late.mean() < 6  # four steps, and one in ten stays


def test_one_environment_of_gymnasium_is_one_run_and_spaces_may_start_anywhere():
    learner = TabularOptionCritic(make("FrozenLake-v1", max_episode_steps=20)).learn(60)
    assert learner.q.shape == (1, 16, 4)
    assert learner.lengths.max() <= 20

    class Shifted(Corridor):
        observation_space, action_space = spaces.Discrete(SIZE, start=7), spaces.Discrete(2)

        def observe(self, state):
            return state["place"] + 7

    class Renamed(NumpyVectorEnv):
        def step(self, actions):
            return super().step(actions - 3)

    env = Renamed(Shifted(), 3, max_episode_steps=30)
    env.single_action_space = spaces.Discrete(2, start=3)
    shifted = Sarsa(env).learn(200)
    assert (shifted.q == Sarsa(corridor()).learn(200).q).all()


# Misuse.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_options": 0}, "`n_options` must be at least 1"),
        ({"gamma": 1.5}, "`gamma` must lie in"),
        ({"epsilon": -0.1}, "`epsilon` must lie in"),
        ({"temperature": 0.0}, "`temperature` must be a positive number; got 0.0"),
        ({"critic_lr": np.nan}, "`critic_lr` must lie in"),
        ({"policy_lr": np.inf}, "`policy_lr` must be finite; got inf"),
        ({"margin": -1.0}, "`margin` must be at least 0"),
    ],
)
def test_numbers_outside_their_range_raise(options, message):
    with pytest.raises(ValueError, match=message):
        TabularOptionCritic(corridor(), **options)


def test_spaces_without_numbers_raise():
    with pytest.raises(ValueError, match="Discrete observation space"):
        Sarsa(make("CartPole-v1"))


def test_another_discount_than_the_environments_raises():
    env = corridor()
    env.gamma = 0.9  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="`gamma` must be that of `env`"):
        TabularOptionCritic(env)
    assert TabularOptionCritic(env, gamma=0.9).gamma == 0.9


def test_a_state_of_other_sizes_raises():
    state = TabularOptionCritic(corridor(), n_options=2).state_dict()
    with pytest.raises(ValueError, match="`state` must hold `q_u` of the shape"):
        TabularOptionCritic(corridor(), n_options=3).load_state_dict(state)
