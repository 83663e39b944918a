"""The recipe `sinusoid`, small: floors, resume, learners, misuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rich.console import Console

from athena_core import AthenaError, Configured, Interrupted, NotFinite, saved_run
from athena_core.testing import CutRun, execute
from athena_meta import GradientLearner, Sinusoid
from athena_meta._recipe_sinusoid import sinusoid_network

pytest.importorskip("matplotlib")

SMALL: dict[str, Any] = {"steps": 6, "tasks": 3, "log_every": 2}


def learner(name: str = "maml", **options: Any) -> Configured:
    return Configured("few-shot-learner", name, options)


def test_it_reports_the_error_by_step_beside_the_floors_and_draws(tmp_path):
    final, rows, text = execute(Sinusoid(**SMALL), tmp_path / "run")
    assert [row["step"] for row in rows] == [2, 4, 6]
    for words in ("on 600 test tasks", "after  1 step ", "after 10 steps", "4.2517", "3.0057"):
        assert words in text
    # Hardly trained it predicts 0, so its error is that floor's, here within four standard errors.
    standard_error = final["half_width_step_0"] / 1.96
    assert abs(final["mse_step_0"] - 4.2517) < 4 * standard_error
    assert set(final) == {f"{what}_step_{step}" for what in ("mse", "half_width") for step in (0, 1, 5, 10)}
    figures = sorted(path.name for path in (tmp_path / "run" / "figures").iterdir())
    assert figures == ["error_by_step.png", "fits.png"]


def test_it_learns_to_adapt_in_one_step(tmp_path):
    """A larger outer rate than the paper's, to be done in 250 steps."""
    recipe = Sinusoid(steps=250, tasks=10, lr=0.01, learner=learner(inner_steps=1, inner_lr=0.01))
    final, _, _ = execute(recipe, tmp_path / "run")
    assert final["mse_step_1"] < 0.9 * final["mse_step_0"]
    assert final["mse_step_1"] < 3.0057


@pytest.mark.parametrize("cut", [2, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, cut):
    whole = execute(Sinusoid(**SMALL), tmp_path / "whole")
    with pytest.raises(Interrupted):
        execute(Sinusoid(**SMALL), tmp_path / "cut", cut=cut)
    assert execute(Sinusoid(**SMALL), tmp_path / "cut")[:2] == whole[:2]


def test_a_run_cut_between_two_logs_logs_the_same_mean(tmp_path):
    """Checkpoints come by time too, so not only at steps that are logged."""

    class CutBetween(CutRun):
        def steps(self, total: int, **options: Any) -> Any:
            for step in super().steps(total, **options):
                yield step
                if step == 3:
                    self.signal = 2

    whole = execute(Sinusoid(**SMALL), tmp_path / "whole")
    with (
        pytest.raises(Interrupted),
        CutBetween(tmp_path / "cut", device="cpu", seed=3, console=Console(quiet=True)) as run,
    ):
        Sinusoid(**SMALL).run(run)
    assert execute(Sinusoid(**SMALL), tmp_path / "cut")[1] == whole[1]


@pytest.mark.parametrize("name", ["anil", "meta-sgd"])
def test_relatives_of_maml_run_and_an_automatic_mode_is_vmap(tmp_path, name):
    recipe = Sinusoid(**SMALL, learner=learner(name, inner_lr=0.05))
    built = recipe.build()
    assert built.modes.mode == "vmap"
    assert built.task_loss is torch.nn.functional.mse_loss
    assert execute(recipe, tmp_path / "run")[0]["mse_step_10"] > 0
    assert Sinusoid(learner=learner(mode="loop")).build().modes.mode == "loop"


def test_the_saved_learner_can_be_used_afterwards(tmp_path):
    from athena_core import Run

    config = {"recipe": "sinusoid", "seed": 0, "device": "cpu", **SMALL}
    with Run(tmp_path / "run", config=config, device="cpu", console=Console(quiet=True)) as run:
        Sinusoid(**SMALL).run(run)
    saved = saved_run(tmp_path / "run")
    assert isinstance(saved.recipe, Sinusoid)
    built = saved.recipe.build()
    assert isinstance(built, GradientLearner)
    built.load_state_dict(saved.state["learner"])
    x = torch.linspace(-1, 1, 5)[:, None]
    assert built.adapt(x, x.sin(), steps=3)(x).shape == (5, 1)


def test_its_network_starts_within_two_deviations_of_zero():
    network = sinusoid_network()
    weights = torch.cat([p.detach().flatten() for name, p in network.named_parameters() if "weight" in name])
    biases = torch.cat([p.detach().flatten() for name, p in network.named_parameters() if "bias" in name])
    assert weights.numel() == 40 + 1600 + 40
    assert weights.abs().max() <= 0.02
    assert not biases.any()
    # Cut at two deviations, a normal has 0.88 of its deviation.
    assert abs(float(weights.std()) - 0.0088) < 0.0005


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k_shot": 0}, "`k_shot` must be at least 1; got 0"),
        ({"lr": -1.0}, "`lr` must be at least 0; got -1.0"),
        ({"tasks": 0}, "`tasks` must be at least 1; got 0"),
        ({"log_every": 0}, "`log_every` must be at least 1; got 0"),
        ({"steps": 0}, "`steps` must be at least 1; got 0"),
        ({"learner": learner("prototypical")}, "`learner` must adapt by gradient steps"),
        ({"learner": learner(inner_lr=-1.0)}, "few-shot-learner `maml`: `inner_lr` must be finite"),
    ],
)
def test_misuse_is_told_in_one_line(tmp_path, options, words):
    with pytest.raises(AthenaError, match=words) as error:
        execute(Sinusoid(**{**SMALL, **options}), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_rate_that_diverges_is_named(tmp_path):
    with pytest.raises(NotFinite, match=r"after step . of task"):
        execute(Sinusoid(**SMALL, learner=learner(inner_lr=1e30, inner_steps=3)), tmp_path / "run")
