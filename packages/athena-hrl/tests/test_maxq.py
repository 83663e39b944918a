"""MAXQ: against a plain recursion, against the exact recursively optimal values, and on odd ends."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from small_mdp import ModelEnv, corridor, recursive_optimum

from athena_hrl import (
    MAXQ,
    FiniteMDP,
    OptionEnv,
    QNode,
    Subtask,
    TaskGraph,
    expected_return,
    primitives,
    value_iteration,
)

LAST = 6


def graph(*, pseudo: bool = False) -> TaskGraph:
    """Go to the middle or to the end of the corridor; the root may open as well."""
    walk = Subtask(
        "walk",
        children=(0, 1),
        ended=lambda cell, goal: cell == goal,
    )
    trip = Subtask(
        "trip",
        children=(QNode(walk, (3,)), QNode(walk, lambda cell: (LAST,)), 0, 1),
        ended=lambda cell: cell in (0, LAST),
        pseudo_reward=(lambda cell: 40.0 * (cell == 0)) if pseudo else None,
    )
    root = Subtask("root", children=(trip, 1, 2), ended=lambda cell: False)
    return TaskGraph(root, n_states=LAST + 1, n_actions=3)


class PlainMAXQ:
    """MAXQ-Q as the paper has it, by recursion; MAXQ-0 if ``all_states`` is off."""

    def __init__(self, env, graph, *, gamma, alpha, epsilon, all_states, seed):
        self.env, self.graph, self.gamma, self.alpha = env, graph, gamma, alpha
        self.epsilon, self.all_states = epsilon, all_states
        self.random = np.random.default_rng(seed)
        self.v, self.c, self.own = {}, {}, {}
        self.done = False

    def greedy(self, i, s):
        best = None
        for a, child in enumerate(self.graph.task(i).children):
            if child.nodes[s] >= 0:
                value = self.value(child.nodes[s], s)
                own = value + self.own.get((i, s, a), 0.0)
                if best is None or own > best[1]:
                    best = a, own, value + self.c.get((i, s, a), 0.0)
        return best

    def value(self, i, s):
        return self.v.get((i, s), 0.0) if i < self.graph.n_actions else self.greedy(i, s)[2]

    def run(self, i, s):
        """The states in which ``i`` chose, latest first, with the steps from each to the end; and the end."""
        if i < self.graph.n_actions:
            s2, r, self.done, _, _ = self.env.step(i)
            self.v[i, s] = self.v.get((i, s), 0.0) + self.alpha * (r - self.v.get((i, s), 0.0))
            return [(s, 1)], s2
        task, seen = self.graph.task(i), []
        while not (self.done or task.ended[s]):
            places = [a for a, child in enumerate(task.children) if child.nodes[s] >= 0]
            if self.random.random() < self.epsilon:
                a = places[self.random.integers(len(places))]
            else:
                a = self.greedy(i, s)[0]
            node = task.children[a].nodes[s]
            states, s2 = self.run(node, s)
            over = self.done or task.ended[s2]
            _, own, value = (0, task.pseudo_rewards[s2], 0.0) if over else self.greedy(i, s2)
            steps = states[-1][1]
            for state, n in states if self.all_states else states[-1:]:
                if task.children[a].nodes[state] == node:
                    for table, target in ((self.c, value), (self.own, own)):
                        old = table.get((i, state, a), 0.0)
                        table[i, state, a] = old + self.alpha * (self.gamma**n * target - old)
            seen = [(s, steps), *((state, n + steps) for state, n in seen)]
            s = s2
        return seen, s


@pytest.mark.parametrize("pseudo", [False, True])
@pytest.mark.parametrize("all_states", [False, True])
def test_learns_what_the_papers_recursion_learns(pseudo: bool, all_states: bool) -> None:
    tasks, model = graph(pseudo=pseudo), corridor(slip=0.3)
    agent = MAXQ(ModelEnv(model), tasks, gamma=0.9, step_size=0.3, epsilon=0.3, all_states=all_states, seed=5)
    env = ModelEnv(model)
    plain = PlainMAXQ(env, tasks, gamma=0.9, alpha=0.3, epsilon=0.3, all_states=all_states, seed=5)
    state, _ = env.reset(seed=5)
    for _ in range(40):
        plain.done = False
        plain.run(tasks.root, state)
        state, _ = env.reset()
    ended = 0
    while ended < 40:
        agent.learn(1)
        ended += agent._state is None
    for task in tasks.tasks:
        for cell in range(LAST + 1):
            if not task.ended[cell]:
                assert agent.value(task.name, cell) == pytest.approx(
                    plain.value(tasks.number(task.name), cell), abs=1e-12
                )


@pytest.mark.parametrize("pseudo", [False, True])
def test_values_sum_to_those_of_the_recursively_optimal_policy(pseudo: bool) -> None:
    model, tasks = corridor(), graph(pseudo=pseudo)
    agent = MAXQ(
        ModelEnv(model), tasks, gamma=0.9, epsilon=lambda step: 0.5 if step < 20_000 else 0.0, seed=1
    )
    agent.learn(40_000)
    exact = recursive_optimum(tasks, model, 0.9)
    np.testing.assert_allclose([agent.value("root", s) for s in range(7)], exact["root"], atol=1e-6)
    flat = value_iteration(model.transition, model.reward, gamma=0.9).max(1)
    assert (exact["root"] <= flat + 1e-9).all()
    earned = expected_return(model, agent.policy(), steps=1_000, gamma=0.9)
    assert earned == pytest.approx(model.start @ exact["root"], abs=1e-6)
    polled = expected_return(model, agent.policy(polling=True), steps=1_000, gamma=0.9)
    assert polled >= earned - 1e-9


def test_values_come_near_the_exact_ones_where_the_world_is_stochastic() -> None:
    model, tasks = corridor(slip=0.5), graph()
    agent = MAXQ(
        ModelEnv(model),
        tasks,
        gamma=0.95,
        step_size=lambda visits: visits**-0.7,
        epsilon=lambda step: 0.3 if step < 20_000 else 0.0,
        seed=2,
    ).learn(60_000)
    exact = recursive_optimum(tasks, model, 0.95)["root"]
    # Returns deviate by about 3, of which hundreds are averaged, after wrong ones at first.
    assert np.abs([agent.value("root", s) for s in range(7)] - exact).max() < 0.3
    assert expected_return(model, agent.policy(), steps=1_000, gamma=0.95) == pytest.approx(
        model.start @ exact, abs=1e-6
    )


def test_hand_worked_update() -> None:
    # Two cells; the root calls "walk", which goes right, then opens. gamma 1/2, step size 1/2, each step -1.
    walk = Subtask("walk", children=(1,), ended=lambda cell: cell == 1)
    root = Subtask("root", children=(walk, QNode(2)), ended=lambda cell: False)
    model = corridor(length=2)._replace(start=np.array([1.0, 0.0]))
    agent = MAXQ(ModelEnv(model), TaskGraph(root, n_states=2, n_actions=3), gamma=0.5, epsilon=0.0)
    agent.learn(2)  # walk, then the only child left: open for 10
    # V(right, 0) = -1/2; V(open, 1) = 5; nothing was known of state 1 when walk came back.
    assert agent.q("root", 0).tolist() == [-0.5, 0.0]
    assert agent.q("root", 1)[1] == 5.0
    assert np.isnan(agent.q("root", 1)[0])
    agent.learn(1)  # now "open" is better in cell 0 and costs 3
    assert agent.q("root", 0).tolist() == [-0.5, -1.5 - 0.5 * 0.25]
    agent.learn(1)  # walk: V = -3/4, C(root, 0, walk) = 1/2 * 1/2 * 5
    assert agent.q("root", 0)[0] == -0.75 + 1.25


def test_one_task_of_actions_is_q_learning() -> None:
    # V(a, s) + C(root, s, a) with one step size is Q(s, a), if no action leads back to where it was taken:
    # there the paper's order of updates would use the new V.
    turn = np.roll(np.eye(16), 1, axis=1)
    transition = np.stack([0.6 * turn + 0.3 * turn.T, 0.5 * turn + 0.3 * turn @ turn], axis=1)
    model = FiniteMDP(transition, np.random.default_rng(7).normal(size=(16, 2)), np.full(16, 1 / 16))
    root = Subtask("root", children=range(2), ended=lambda state: False)
    tasks = TaskGraph(root, n_states=16, n_actions=2)
    agent = MAXQ(ModelEnv(model), tasks, gamma=0.9, step_size=0.2, epsilon=1.0)
    q, other = np.zeros((16, 2)), ModelEnv(model)
    random = np.random.default_rng(0)
    state, _ = other.reset(seed=0)
    for _ in range(3_000):
        random.random()
        action = int(random.integers(2))
        after, reward, terminated, truncated, _ = other.step(action)
        target = reward + 0.9 * (not terminated) * q[after].max()
        q[state, action] += 0.2 * (target - q[state, action])
        state = other.reset()[0] if terminated or truncated else after
    agent.learn(3_000)
    np.testing.assert_allclose([agent.q("root", s) for s in range(16)], q, atol=1e-12)


def test_cut_episodes_bootstrap_and_terminated_ones_do_not() -> None:
    walk = Subtask("walk", children=(1,), ended=lambda cell: cell == LAST)
    root = Subtask("root", children=(walk, 2), ended=lambda cell: False)
    model = corridor()._replace(start=np.eye(7)[0])

    def agent_of(limit: int) -> MAXQ:
        env = gym.wrappers.TimeLimit(ModelEnv(model), limit)
        tasks = TaskGraph(root, n_states=7, n_actions=3)
        return MAXQ(env, tasks, gamma=0.5, step_size=1.0, epsilon=0.0)

    agent = agent_of(limit=1_000)
    agent.learn(100)  # knows the corridor by now: open in the last cell, walk elsewhere
    before = agent.q("root", 0)
    cut = agent_of(limit=3)
    cut.load_state_dict(agent.state_dict())
    cut.learn(
        3
    )  # cut in cell 3, in the midst of "walk", whose completion from there is 1/8 of C(root, 3, walk)
    np.testing.assert_allclose(cut.q("root", 0), before)
    assert before[0] == pytest.approx(sum(-(0.5**t) for t in range(6)) + 0.5**6 * 10)


def test_abstraction_shares_values() -> None:
    # Whatever the colour (states 0 to 6 and 7 to 13 are the same corridor twice), walking costs the same.
    once = corridor()
    twice = np.zeros((14, 3, 14))
    twice[:7, :, :7] = twice[7:, :, 7:] = once.transition
    start = np.zeros(14)
    start[:7] = 1 / 7  # the second colour is never seen
    walk = Subtask(
        "walk",
        children=(0, 1),
        ended=lambda state, goal: state % 7 == goal,
        relevant=lambda state, goal: state % 7,
    )
    root = Subtask(
        "root",
        children=(QNode(walk, (LAST,), relevant=lambda state: "any"), QNode(2, relevant=lambda s: s % 7)),
        ended=lambda state: False,
    )
    tasks = TaskGraph(root, n_states=14, n_actions=3, reward_depends_on=lambda s, a: s % 7 if a == 2 else ())
    assert tasks.n_values == 1 + 1 + 7 + 2 * 6 + 1 + 7
    model = once._replace(transition=twice, reward=np.tile(once.reward, (2, 1)), start=start)
    agent = MAXQ(ModelEnv(model), tasks, gamma=1.0, epsilon=0.2).learn(5_000)
    assert [agent.value("root", s) for s in range(7)] == [agent.value("root", s + 7) for s in range(7)]
    assert agent.value("walk(6)", 7) == pytest.approx(-6, abs=0.5)


def test_a_loaded_agent_learns_the_same_from_a_new_episode() -> None:
    def made(seed: int) -> MAXQ:
        return MAXQ(ModelEnv(corridor(slip=0.3)), graph(pseudo=True), epsilon=0.3, seed=seed)

    agent, (one, other) = made(3).learn(137), (made(4), made(4))
    for copy in (one, other):
        copy.load_state_dict(agent.state_dict())
    one.learn(200)
    other.learn(200)
    assert one.steps == 337
    for mine, its in zip(one.state_dict()["tables"], other.state_dict()["tables"], strict=True):
        assert (mine == its).all()


def test_bad_input() -> None:
    env = ModelEnv(corridor())
    loop = Subtask("loop", children=[0], ended=lambda cell: False)
    loop.children.append(loop)
    with pytest.raises(ValueError, match="calls itself; got loop -> loop"):
        TaskGraph(loop, n_states=7, n_actions=3)
    with pytest.raises(ValueError, match=r"`root` must call actions in \[0, 3\); got 3"):
        TaskGraph(Subtask("root", children=(3,), ended=lambda cell: False), n_states=7, n_actions=3)
    walk = Subtask("walk", children=(1,), ended=lambda cell: cell == LAST)
    stuck = TaskGraph(Subtask("root", children=(walk,), ended=lambda cell: False), n_states=7, n_actions=3)
    for epsilon in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"`root` must have a child to call.*in state 6"):
            MAXQ(env, stuck, epsilon=epsilon).learn(100)
        at_the_end = ModelEnv(corridor()._replace(start=np.eye(7)[LAST]))
        with pytest.raises(ValueError, match=r"`root` must have a child to call.*in state 6"):
            MAXQ(at_the_end, stuck, epsilon=epsilon).learn(1)
    early = TaskGraph(walk, n_states=7, n_actions=3)
    with pytest.raises(ValueError, match="`root` must not end before the episode; it has in state 6"):
        MAXQ(env, early).learn(100)
    with pytest.raises(ValueError, match="`root` must not end before"):
        expected_return(corridor(), MAXQ(env, early).policy(), steps=100)
    with pytest.raises(ValueError, match="must be for 7 states and 3 actions"):
        MAXQ(env, TaskGraph(walk, n_states=8, n_actions=3))
    with pytest.raises(ValueError, match="`env` must take single steps"):
        MAXQ(OptionEnv(env, primitives(env)), graph())
    with pytest.raises(ValueError, match="`gamma`"):
        MAXQ(env, graph(), gamma=1.1)
    with pytest.raises(ValueError, match=r"`epsilon` must lie in \[0, 1\]; got nan"):
        MAXQ(env, graph(), epsilon=float("nan"))
    with pytest.raises(ValueError, match=r"`name` must be one of walk\(3\), walk\(6\), trip, root"):
        MAXQ(env, graph()).value("walk", 0)
    with pytest.raises(ValueError, match="`state` must hold tables of"):
        MAXQ(env, graph()).load_state_dict(MAXQ(env, graph(pseudo=True)).state_dict())
