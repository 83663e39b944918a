"""Ways to choose the next task: exact probabilities, frequencies, states, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athena_multitask import (
    CurriculumSampling,
    ProportionalSampling,
    TaskSampling,
    TemperatureSampling,
    UniformSampling,
)

SIZES = {"small": 10, "middle": 40, "large": 950}


def curriculum(seed: int = 0) -> CurriculumSampling:
    made = CurriculumSampling(SIZES, seed=seed)
    made.update({"small": 2.0, "middle": 8.0})
    made.update({"small": 0.1, "middle": 7.0, "large": 3.0})
    return made


SAMPLINGS: dict[str, Callable[..., TaskSampling]] = {
    "uniform": lambda seed=0: UniformSampling(SIZES, seed=seed),
    "proportional": lambda seed=0: ProportionalSampling(SIZES, seed=seed),
    "temperature": lambda seed=0: TemperatureSampling(SIZES, temperature=2.0, seed=seed),
    "curriculum": curriculum,
}
every_sampling = pytest.mark.parametrize("make", SAMPLINGS.values(), ids=SAMPLINGS)


@every_sampling
def test_frequencies_are_the_probabilities(make: Callable[..., TaskSampling]) -> None:
    """Within five standard deviations of a binomial count."""
    sampling, draws = make(seed=3), 4000
    drawn = [sampling.sample() for _ in range(draws)]
    probabilities = sampling.probabilities()
    assert probabilities.sum().item() == pytest.approx(1)
    for name, probability in zip(sampling.tasks, probabilities.tolist(), strict=True):
        deviation = math.sqrt(draws * probability * (1 - probability))
        assert abs(drawn.count(name) - draws * probability) < 5 * deviation


@every_sampling
def test_a_state_goes_on_as_if_never_interrupted(make: Callable[..., TaskSampling]) -> None:
    sampling, other = make(seed=1), make(seed=2)
    for _ in range(7):
        sampling.sample()
    state = sampling.state_dict()
    expected = [sampling.sample() for _ in range(50)]
    other.load_state_dict(state)
    assert [other.sample() for _ in range(50)] == expected
    assert make(seed=2).sample() is not None


@every_sampling
def test_draws_are_its_own(make: Callable[..., TaskSampling]) -> None:
    expected, sampling, found = make(), make(), []
    for _ in range(20):
        torch.rand(3)
        found.append(sampling.sample())
    assert found == [expected.sample() for _ in range(20)]
    other = make(seed=5)
    assert found != [other.sample() for _ in range(20)] or make is SAMPLINGS["proportional"]


@every_sampling
def test_a_state_of_other_tasks(make: Callable[..., TaskSampling]) -> None:
    state = UniformSampling(["a", "b"]).state_dict()
    with pytest.raises(ValueError, match=r"checkpoint must be of the tasks .*got \['a', 'b'\]"):
        make().load_state_dict(state)


@every_sampling
def test_losses_of_unknown_tasks(make: Callable[..., TaskSampling]) -> None:
    sampling = make()
    sampling.update({"small": torch.tensor(2.0)})
    with pytest.raises(ValueError, match=r"`losses` must be of tasks of the sampling.*got 'tiny'"):
        sampling.update({"tiny": 1.0})


def test_by_size() -> None:
    assert ProportionalSampling(SIZES).probabilities().tolist() == [0.01, 0.04, 0.95]
    assert ProportionalSampling(SIZES, limit=50).probabilities().tolist() == [0.1, 0.4, 0.5]


def test_by_a_root_of_the_size() -> None:
    found = TemperatureSampling({"a": 4, "b": 9, "c": 25}, temperature=2.0).probabilities()
    torch.testing.assert_close(found, torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64))


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=50))
def test_temperature_lies_between_by_size_and_uniform(counts: list[int]) -> None:
    sizes = {str(place): count for place, count in enumerate(counts)}
    one, many = (TemperatureSampling(sizes, temperature=each).probabilities() for each in (1.0, 1e9))
    torch.testing.assert_close(one, ProportionalSampling(sizes).probabilities())
    torch.testing.assert_close(many, UniformSampling(sizes).probabilities())


def test_sizes_of_any_scale_at_a_low_temperature() -> None:
    found = TemperatureSampling({"a": 10**12, "b": 10**12, "c": 1}, temperature=0.01).probabilities()
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))


def reference_curriculum(
    losses: list[dict[str, float]], *, temperature: float, decay: float, floor: float
) -> list[float]:
    """Progress of three tasks in plain Python."""
    first: dict[str, float] = {}
    mean: dict[str, float] = {}
    for step in losses:
        for name, loss in step.items():
            first.setdefault(name, loss)
            mean[name] = decay * mean.get(name, loss) + (1 - decay) * loss
    powers = [math.exp((mean[name] / first[name] if name in mean else 1.0) / temperature) for name in SIZES]
    return [(1 - floor) * power / sum(powers) + floor / len(powers) for power in powers]


def test_curriculum_against_the_equations() -> None:
    losses = [{"small": 4.0}, {"small": 3.0, "large": 100.0}, {"large": 90.0}, {"small": 1.0}]
    options = {"temperature": 0.3, "decay": 0.6, "floor": 0.2}
    sampling = CurriculumSampling(SIZES, **options)
    for step in losses:
        sampling.update(step)
    assert sampling.probabilities().tolist() == pytest.approx(reference_curriculum(losses, **options))


def test_curriculum_starts_uniform_and_asks_for_units_of_no_loss() -> None:
    plain, scaled = CurriculumSampling(SIZES), CurriculumSampling(SIZES)
    assert plain.probabilities().tolist() == pytest.approx([1 / 3] * 3)
    for step in ({"small": 2.0, "middle": 1.0}, {"small": 0.5, "middle": 0.9}):
        plain.update(step)
        scaled.update({"small": 1e10 * step["small"], "middle": 1e-10 * step["middle"]})
    torch.testing.assert_close(plain.probabilities(), scaled.probabilities())
    small, middle, large = plain.probabilities().tolist()
    assert small < middle < large


def test_the_floor_leaves_no_task() -> None:
    sampling = CurriculumSampling(["a", "b"], temperature=1e-3, decay=0.0, floor=0.2)
    sampling.update({"a": 1.0, "b": 1.0})
    sampling.update({"a": 0.0})
    assert sampling.probabilities().tolist() == pytest.approx([0.1, 0.9])


@pytest.mark.parametrize("loss", [math.nan, math.inf, -1.0, 0.0])
def test_a_bad_loss_changes_nothing(loss: float) -> None:
    sampling = CurriculumSampling(["a", "b"])
    with pytest.raises(ValueError, match=r"`losses\['b'\]` must be finite and at least 0"):
        sampling.update({"a": 2.0, "b": loss})
    assert not sampling.seen.any()


@pytest.mark.parametrize("tasks", ["abc", [], ["a", "a"]])
def test_names_that_are_none(tasks: list[str]) -> None:
    with pytest.raises(ValueError, match="`tasks` must be names, each once"):
        UniformSampling(tasks)


def test_options_outside_their_range() -> None:
    with pytest.raises(ValueError, match=r"`sizes\['b'\]` must be at least 1; got 0"):
        ProportionalSampling({"a": 1, "b": 0})
    with pytest.raises(ValueError, match=r"`sizes\['a'\]` must be at least 1; got nan"):
        TemperatureSampling({"a": math.nan})
    with pytest.raises(ValueError, match="`limit` must be at least 1; got 0"):
        ProportionalSampling({"a": 1}, limit=0)
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="`temperature` must be finite and above 0"):
            TemperatureSampling({"a": 1}, temperature=temperature)
        with pytest.raises(ValueError, match="`temperature` must be finite and above 0"):
            CurriculumSampling(["a"], temperature=temperature)
    with pytest.raises(ValueError, match=r"`decay` must lie in \[0, 1\); got 1.0"):
        CurriculumSampling(["a"], decay=1.0)
    with pytest.raises(ValueError, match=r"`floor` must lie in \[0, 1\]; got 2.0"):
        CurriculumSampling(["a"], floor=2.0)
