"""The other weightings of losses, by hand; and what all refuse."""

from __future__ import annotations

import io
import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from athena_core import create
from athena_multitask import (
    DWA,
    FAMO,
    RandomWeighting,
    ScaleInvariant,
    StaticWeighting,
    TaskWeighting,
    UncertaintyWeighting,
)
from athena_multitask._task_weighting_laws import TASKS, Example, task_weighting_checks, train, weighting_of
from athena_multitask._uncertainty_weighting import uncertainty_loss

NAMES = ["dwa", "famo", "gradnorm", "random", "scale-invariant", "static", "uncertainty"]


def losses_of(*values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in zip("abc", values, strict=False)}


@pytest.mark.parametrize("name", NAMES)
def test_made_by_name_a_weighting_weighs_and_is_saved(name: str) -> None:
    model = Example()
    options = {"shared": [model.shared]} if name == "gradnorm" else {}
    weighting = create("task-weighting", name, tasks=TASKS, **options)
    assert weighting.weights is None
    weighting(model(0)).backward()
    assert weighting.weights.shape == (3,)
    file = io.BytesIO()
    torch.save(weighting.state_dict(), file)
    file.seek(0)
    weighting.load_state_dict(torch.load(file, weights_only=True))


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_and_modules_in_float64(name: str) -> None:
    model = Example()
    options = {"shared": [model.shared]} if name == "gradnorm" else {}
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        weighting = create("task-weighting", name, tasks=TASKS, **options).double()
        loss = weighting({task: loss.to(dtype) for task, loss in model(0).items()})
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        loss.backward()


@pytest.mark.parametrize("name", NAMES)
def test_autocast_does_not_round_the_loss(name: str) -> None:
    model, values = Example(), []
    for enabled in (False, True):
        options = {"shared": [model.shared]} if name == "gradnorm" else {}
        weighting = create("task-weighting", name, tasks=TASKS, **options)
        losses = model(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values.append(weighting(losses))
    assert torch.equal(*values)
    assert values[0].dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_copies(name: str) -> None:
    model = Example()
    options = {"shared": [model.shared]} if name == "gradnorm" else {}
    weighting = create("task-weighting", name, tasks=TASKS, **options)
    twin, twin_model = deepcopy((weighting, model))
    assert torch.equal(twin(twin_model(0)), weighting(model(0)))


@pytest.mark.parametrize("name", NAMES)
def test_resume_through_a_file_is_as_uninterrupted_for_100_steps(name: str, tmp_path: Path) -> None:
    # Pitfalls 6 and 7.
    def begin() -> tuple[Example, TaskWeighting]:
        model = Example()
        options = {"shared": [model.shared]} if name == "gradnorm" else {}
        return model, create("task-weighting", name, tasks=TASKS, **options)

    whole, weighting = begin()
    expected = train(weighting, whole, range(100))
    model, weighting = begin()
    train(weighting, model, range(45))
    torch.save([model.state_dict(), weighting.state_dict()], tmp_path / "run.pt")
    model, weighting = begin()
    for part, state in zip(
        (model, weighting), torch.load(tmp_path / "run.pt", weights_only=True), strict=True
    ):
        part.load_state_dict(state)
    resumed = train(weighting, model, range(45, 100))
    assert torch.equal(torch.stack(resumed), torch.stack(expected[45:]))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "random"])
def test_the_order_of_names_does_not_matter(name: str) -> None:
    curves = []
    for tasks in (TASKS, TASKS[::-1]):
        model = Example()
        options = {"shared": [model.shared]} if name == "gradnorm" else {}
        weighting = create("task-weighting", name, tasks=tasks, **options)
        curves.append(torch.stack(train(weighting, model, range(20))))
    torch.testing.assert_close(*curves, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_fifty_tasks(name: str) -> None:
    names = [f"task {number}" for number in range(50)]
    weight = torch.ones(3, requires_grad=True)
    options = {"shared": [weight]} if name == "gradnorm" else {}
    weighting = create("task-weighting", name, tasks=names, **options)
    losses = {task: weight.sum() * (number + 1) for number, task in enumerate(names)}
    assert weighting(losses).isfinite()


def test_uncertainty_is_the_likelihood_of_a_normal_variable() -> None:
    error, deviation = torch.tensor(1.7), torch.tensor(0.6)
    density = torch.distributions.Normal(0, deviation).log_prob(error)
    ours = uncertainty_loss(error.square()[None], deviation.square().log()[None], torch.tensor([0.5]))
    torch.testing.assert_close(ours, -density - 0.5 * math.log(2 * math.pi))


def test_uncertainty_variances_enter_the_optimizer_and_reach_their_optimum() -> None:  # pitfall 7
    weighting = UncertaintyWeighting(["a", "b"], classification=["b"])
    assert [name for name, _ in weighting.named_parameters()] == ["log_variances"]
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.1)
    for _ in range(500):
        optimizer.zero_grad()
        weighting(losses_of(4.0, 0.5)).backward()
        optimizer.step()
    # Of L / (2 s) + log(s) / 2 at s = L; of L / s + log(s) / 2 at s = 2 L.
    torch.testing.assert_close(
        weighting.log_variances.exp().data, torch.tensor([4.0, 1.0]), rtol=1e-3, atol=0
    )


def test_a_missing_task_leaves_its_variance_alone() -> None:
    weighting = UncertaintyWeighting(["a", "b"])
    weighting({"b": torch.tensor(3.0)}).backward()
    assert weighting.log_variances.grad is not None
    assert weighting.log_variances.grad.tolist() == [0, -1]


def test_dwa_needs_two_epochs() -> None:  # pitfall 7
    dwa = DWA(["a", "b"], temperature=0.5)
    for first, second in ((2.0, 4.0), (4.0, 4.0)):
        assert dwa(losses_of(1.0, 1.0)).item() == 2  # weights of 1
        dwa(losses_of(2 * first - 1, 2 * second - 1))
        dwa.end_epoch()
    shares = torch.tensor([2.0, 1.0]).div(0.5).exp()  # the ratios of the epochs' means, over the temperature
    dwa(losses_of(1.0, 1.0))
    torch.testing.assert_close(dwa.weights, 2 * shares / shares.sum())


def test_dwa_takes_the_mean_over_the_batches_that_had_the_task() -> None:
    dwa = DWA(["a", "b"])
    dwa(losses_of(1.0, 5.0))
    dwa({"b": torch.tensor(7.0)})
    assert dwa.mean.tolist() == [1, 6]


def test_dwa_refuses_epochs_without_losses() -> None:
    dwa = DWA(["a", "b"])
    with pytest.raises(ValueError, match=r"losses of 'a' in an epoch .* got no batch"):
        dwa.end_epoch()
    dwa(losses_of(1.0, -1.0))
    with pytest.raises(ValueError, match=r"losses of 'b' in an epoch .* got a mean of -1"):
        dwa.end_epoch()
    for temperature in (0.0, math.inf):
        with pytest.raises(ValueError, match="`temperature` must be positive"):
            DWA(["a"], temperature=temperature)


@pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
def test_random_weights_are_on_the_simplex_and_seeded(distribution: str) -> None:
    state = torch.random.get_rng_state()
    drawn = []
    for seed in (0, 0, 1):
        weighting = RandomWeighting(["a", "b", "c"], distribution=distribution, seed=seed)
        rows = []
        for _ in range(2000):
            weighting(losses_of(1.0, 1.0, 1.0))
            rows.append(weighting.weights)
        drawn.append(torch.stack(rows))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(drawn[0].sum(1), torch.ones(2000))
    torch.testing.assert_close(drawn[0].mean(0), torch.full((3,), 1 / 3), rtol=0, atol=0.02)
    variance = 1 / 18 if distribution == "dirichlet" else 0.0494  # of softmax: by a million draws
    torch.testing.assert_close(drawn[0].var(0).mean(), torch.tensor(variance), rtol=0.1, atol=0)


def test_random_weights_in_eval_are_their_mean() -> None:
    weighting = RandomWeighting(["a", "b"]).eval()
    assert weighting(losses_of(1.0, 3.0)).item() == 2


def test_random_weights_of_others_are_as_if_none_were_missing() -> None:
    whole, part = RandomWeighting(["a", "b"]), RandomWeighting(["a", "b"])
    whole(losses_of(1.0, 1.0))
    part({"b": torch.tensor(1.0)})
    assert whole.weights is not None
    assert part.weights is not None
    assert part.weights[1] == whole.weights[1]
    with pytest.raises(ValueError, match="`distribution` must be"):
        RandomWeighting(["a"], distribution="uniform")  # type: ignore[arg-type]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6), st.sampled_from(["log", "geometric"]))
def test_directions_do_not_depend_on_the_scale_of_a_loss(powers: list[float], form: str) -> None:
    names = [str(number) for number in range(len(powers))]
    weighting = ScaleInvariant(names, form=form)  # type: ignore[arg-type]
    losses = {name: torch.tensor(10.0**power) for name, power in zip(names, powers, strict=True)}
    weighting(losses)
    assert weighting.weights is not None
    relative = weighting.weights * torch.stack(list(losses.values()))
    torch.testing.assert_close(relative / relative[0], torch.ones(len(powers)))


def test_scale_invariant_by_hand() -> None:
    assert ScaleInvariant(["a", "b"], form="geometric")(losses_of(2.0, 8.0)).item() == pytest.approx(4)
    assert ScaleInvariant(["a", "b"])(losses_of(2.0, 8.0)).item() == pytest.approx(math.log(16))
    with pytest.raises(ValueError, match="`form` must be"):
        ScaleInvariant(["a"], form="product")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`losses\['b'\]` must be finite and positive .* got 0.0"):
        ScaleInvariant(["a", "b"])(losses_of(1.0, 0.0))


def test_static_weights() -> None:
    weighting = StaticWeighting(["a", "b"], weights={"b": 0.25})
    assert weighting(losses_of(1.0, 4.0)).item() == 2
    assert weighting({"b": torch.tensor(4.0)}).item() == 1
    assert weighting.weights is not None
    assert weighting.weights.tolist() == [0, 0.25]
    for wrong in ({"c": 1.0}, {"a": -1.0}, {"a": math.nan}):
        with pytest.raises(ValueError, match="`weights` must be finite, at least 0"):
            StaticWeighting(["a", "b"], weights=wrong)
    with pytest.raises(ValueError, match="`classification` must name tasks"):
        UncertaintyWeighting(["a"], classification="b")


def test_bad_tasks() -> None:
    for wrong in ("ab", [], ["a", "a"]):
        with pytest.raises(ValueError, match="`tasks` must be names, each once"):
            StaticWeighting(wrong)


def test_numbers_are_refused_by_name() -> None:
    weighting = StaticWeighting(["a", "b"])
    with pytest.raises(TypeError, match=r"`losses\['b'\]` must be a tensor; got a float. Leave out `item"):
        weighting({"a": torch.ones(()), "b": 1.0})


def test_losses_on_several_devices_are_named() -> None:
    weighting = StaticWeighting(["a", "b"])
    with pytest.raises(ValueError, match=r"`losses\['b'\]` must lie on cpu .* got meta"):
        weighting(losses_of(1.0) | {"b": torch.ones((), device="meta")})


def test_a_checkpoint_of_other_tasks_is_refused() -> None:
    for other in (["b", "a"], ["a", "c"]):
        with pytest.raises((ValueError, RuntimeError), match="checkpoint must be of the tasks"):
            StaticWeighting(["a", "b"]).load_state_dict(StaticWeighting(other).state_dict())


def broken_laws(target: type[TaskWeighting]) -> set[str]:
    """Names of the laws that a weighting breaks."""
    broken = set()
    for check in task_weighting_checks(None, target):  # type: ignore[arg-type]
        try:
            check()
        except (AssertionError, TypeError):
            broken.add(check.name)
    return broken


def test_the_laws_tell_wrong_weightings() -> None:
    class Wrong(StaticWeighting):
        takes_missing = False

        def combine(self, losses, rows):
            loss, weights = super().combine(losses, slice(len(losses)))
            self.fixed = self.fixed * 1.01  # in eval too
            return loss * 2, weights

        def _check_missing(self, present):
            return None

    class Forgets(FAMO):
        def get_extra_state(self):
            return {**super().get_extra_state(), "steps": 0}

    assert broken_laws(StaticWeighting) == set()
    assert broken_laws(Wrong) == {
        "its weights are the derivatives by the losses",
        "missing tasks are taken, or refused by name",
        "it remembers training alone",
    }
    assert broken_laws(Forgets) == {"it goes on from a checkpoint"}


def test_the_losses_of_the_example_are_of_the_model() -> None:
    model = Example()
    weighting = weighting_of(StaticWeighting, model)
    weighting(model(0)).backward()
    assert model.shared.grad is not None
