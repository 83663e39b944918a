"""The recipe `few-shot`: any learner on any few-shot data, from training to a table with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from athena_core import AthenaError, Configured, Recipe, Run, component
from athena_meta._episode_sampler import EpisodeSampler
from athena_meta._evaluation import Evaluation, evaluate
from athena_meta._few_shot_dataset import FewShotDataset
from athena_meta._learner import FewShotLearner
from athena_meta._pictures import plot_episode, plot_steps
from athena_meta._recipe_few_shot_data import Splits, read_splits
from athena_meta._recipe_few_shot_parts import Best, NearestPixels, adapts_in_steps, few_shot_learner
from athena_meta._recipe_training import MeanLoss, adapts_by_gradient, check_at_least

VALIDATION_SEED, TEST_SEED = -1, -2  # the same episodes for every run


@dataclass(kw_only=True)
class FewShot(Recipe):
    """Train a few-shot learner around a Conv-4, choose its state by validation, and test it on new classes.

    The accuracy on the test episodes has an interval by episode and a wider one that speaks of other classes;
    beside it stands that of the nearest image by pixels, which learns nothing. No class and no drawer of the
    test is in the training.

    A learner that adapts by gradient steps has as many outputs as ``n_way``; its batch norms use the support
    set's statistics unless ``--learner.transductive true``. MAML learns Glyphs well with ``--tasks 8
    --lr 0.003 --halve_every 2000 --learner.inner_lr 0.1 --learner.inner_steps 3``.

    The trained learner, of the best step, is in the run's folder:

    .. code-block:: python

        saved = athena_core.saved_run(folder)
        best = saved.state["best"]
        learner = saved.recipe.build(best["shape"], best["classes"])
        learner.load_state_dict(best["learner"])

    Args:
        steps: outer steps.
        learner: any.
        data: any, with images that are square.
        folder: of the data, where they are files.
        n_way: classes of an episode of validation and test.
        k_shot: support images a class in all episodes.
        n_query: query images a class in validation and test.
        train_way: classes of an episode of training; null: 20, but ``n_way`` with gradient steps.
        train_query: query images a class in training.
        tasks: episodes a step.
        width: channels of the Conv-4.
        lr: of Adam, the outer optimizer, at the start.
        halve_every: episodes, after which ``lr`` is halved, again and again.
        log_every: steps, of whose losses the mean is logged.
        validate_every: steps between validations.
        validation_episodes: the same each time.
        test_episodes: likewise.
        test_steps: of adaptation in validation and test; null: the learner's own.

    Source: the defaults are those of Snell et al. 2017, arXiv:1703.05175, section 3.1, shortened.

    >>> recipe = FewShot(width=16)
    >>> type(recipe.build((1, 28, 28), classes=814)).__name__
    'PrototypicalNetwork'
    """

    steps: int = 600
    learner: Configured = component(
        "few-shot-learner",
        "prototypical",
        given=("loss", "inner", "relation", "context", "features", "n_classes", "fitting"),
    )
    data: Configured = component("few-shot-data", "glyphs", given=("split", "by", "folder", "transform"))
    folder: Path | None = None
    n_way: int = 5
    k_shot: int = 1
    n_query: int = 15
    train_way: int | None = None
    train_query: int = 5
    tasks: int = 1
    width: int = 64
    lr: float = 1e-3
    halve_every: int = 200
    log_every: int = 10
    validate_every: int = 100
    validation_episodes: int = 100
    test_episodes: int = 600
    test_steps: int | None = None

    @classmethod
    def example(cls) -> Self:
        return cls(
            steps=4,
            train_way=5,
            train_query=1,
            n_query=2,
            width=4,
            log_every=1,
            validate_every=2,
            validation_episodes=4,
            test_episodes=10,
        )

    def run(self, run: Run) -> Mapping[str, float]:
        self.check()
        splits = read_splits(self.data, self.folder)
        run.print(
            "classes to train on, to choose by, to test on, with none in common: "
            + ", ".join(f"{len(part.classes):,}" for part in splits)
        )
        shape, classes = tuple(splits.train.fetch(torch.tensor(0)).shape), len(splits.train.classes)
        learner = self.build(shape, classes).to(run.device)
        best = Best(learner, shape=shape, classes=classes)
        self.train(run, splits, learner, best)
        learner.load_state_dict(best.state)
        return self.show(run, self.sampler(splits.test, TEST_SEED), learner, best)

    def train(self, run: Run, splits: Splits, learner: FewShotLearner, best: Best) -> None:
        """All steps, the best state being kept."""
        sampler = self.training_sampler(splits.train, run.seed)
        judges = self.sampler(splits.validation, VALIDATION_SEED)
        optimizer, mean = torch.optim.Adam(learner.parameters(), lr=self.lr), MeanLoss()
        parts = {"learner": learner, "optimizer": optimizer, "best": best, "mean": mean}
        for step in run.steps(self.steps, **parts):
            first = (step - 1) * self.tasks
            for group in optimizer.param_groups:
                group["lr"] = self.lr * 0.5 ** (first // self.halve_every)
            loss = learner(sampler.draw(first, self.tasks).to(run.device))
            optimizer.zero_grad()
            loss.backward()
            run.check_finite(step, learner, loss)
            optimizer.step()
            mean.add(loss)
            last, found = step == self.steps, {}
            if last or step % self.validate_every == 0:
                accuracy = self.evaluate(learner, judges, self.validation_episodes).interval().estimate
                best.offer(accuracy, step)
                found = {"validation_accuracy": accuracy}
            if found or step % self.log_every == 0:
                run.log(step, loss=mean.take(), **found)

    def build(self, shape: tuple[int, ...], classes: int) -> FewShotLearner:
        """The learner, not yet trained, for images of this shape and so many classes to train on."""
        return few_shot_learner(
            self.learner, shape=shape, width=self.width, n_way=self.n_way, n_classes=classes
        )

    def training_sampler(self, data: FewShotDataset, seed: int) -> EpisodeSampler:
        """Training episodes."""
        fixed = adapts_by_gradient(self.learner)
        n_way = self.train_way or (self.n_way if fixed else min(20, len(data.classes)))
        if fixed and n_way != self.n_way:
            raise AthenaError(
                f"`train_way` must be `n_way`, {self.n_way}, for {self.learner.name!r}, which has one output "
                f"a class; got {n_way}. Leave it out."
            )
        return self._sampler(data, n_way, self.train_query, seed)

    def sampler(self, data: FewShotDataset, seed: int) -> EpisodeSampler:
        """Episodes to be judged by."""
        return self._sampler(data, self.n_way, self.n_query, seed)

    def _sampler(self, data: FewShotDataset, n_way: int, n_query: int, seed: int) -> EpisodeSampler:
        try:
            return EpisodeSampler(data, n_way=n_way, k_shot=self.k_shot, n_query=n_query, seed=seed)
        except ValueError as error:
            raise AthenaError(f"{self.data.name}: {error}") from error

    def evaluate(self, learner: FewShotLearner, source: EpisodeSampler, episodes: int) -> Evaluation:
        """The learner's score after ``test_steps``."""
        return evaluate(learner, source, episodes=episodes, steps=self.test_steps)

    def show(self, run: Run, source: EpisodeSampler, learner: FewShotLearner, best: Best) -> dict[str, float]:
        """Test, print, draw; the final metrics."""
        tested = {
            self.learner.name: self.evaluate(learner, source, self.test_episodes),
            "nearest pixels": evaluate(NearestPixels(), source, episodes=self.test_episodes),
        }
        run.print(f"learner of step {best.step:,}, validation accuracy {100 * best.accuracy:.1f} %")
        run.print(table(tested, heading=f"test accuracy (%), {self.n_way}-way {self.k_shot}-shot"))
        title = f"{self.learner.name} on {self.data.name}, {self.n_way}-way {self.k_shot}-shot"
        drawn = source.draw(0, 1)
        run.figure("episode", plot_episode(learner, drawn, classes=source.dataset.classes, title=title))
        own, pixels = tested.values()
        if own.steps:
            run.figure("accuracy_by_step", plot_steps({self.learner.name: own}, title=title))
        (estimate, _, high), (_, low_by_class, high_by_class) = own.interval(), own.by_class()
        return {
            "accuracy": estimate,
            "half_width": high - estimate,
            "half_width_by_class": (high_by_class - low_by_class) / 2,
            "nearest_pixels_accuracy": pixels.interval().estimate,
            "validation_accuracy": best.accuracy,
            "best_step": best.step,
        }

    def check(self) -> None:
        """Raise AthenaError for an option outside its range, before anything is read."""
        names = "steps", "k_shot", "n_query", "train_query", "tasks", "width", "halve_every", "log_every"
        check_at_least(0, lr=self.lr)
        check_at_least(1, validate_every=self.validate_every, **{name: getattr(self, name) for name in names})
        check_at_least(2, n_way=self.n_way, validation_episodes=self.validation_episodes)
        check_at_least(2, test_episodes=self.test_episodes)
        if self.train_way is not None:
            check_at_least(2, train_way=self.train_way)
        if self.test_steps is not None:
            check_at_least(0, test_steps=self.test_steps)
            if not adapts_in_steps(self.learner):
                raise AthenaError(
                    f"`test_steps` must be left out for {self.learner.name!r}, which adapts in no steps; got "
                    f"{self.test_steps}."
                )


def table(tested: Mapping[str, Evaluation], *, heading: str) -> str:
    """Accuracies in percent with half the widths of their 95 % intervals."""
    first = next(iter(tested.values()))
    wide = max(map(len, tested))
    lines = [f"{heading}, {first.episodes} episodes (95 % intervals by episode, by class)"]
    for name, evaluation in tested.items():
        (estimate, _, high), (_, low, high_by_class) = evaluation.interval(), evaluation.by_class()
        halves = f"± {100 * (high - estimate):.2f}   ± {50 * (high_by_class - low):.2f}"
        lines.append(f"  {name:{wide}}   {100 * estimate:5.2f} {halves}")
    return "\n".join(lines)
