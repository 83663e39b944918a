"""Where a run of the recipe `compress` is: its stage, and what came of those before."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor, nn

from athena_compress._saving import load, save
from athena_compress._stage_results import Result, bars, comparison, measure, trade_off
from athena_compress._stages import Stage
from athena_compress._workload import Batch, Start
from athena_core import Run


class Chain:
    """The stages one after the other, each on the model that the one before left; a part of a run's state.

    Every model that a stage ends with is saved in the run's folder, under ``stages``, scored and measured.

    Args:
        run: the run.
        start: the workload, and the model to begin with; a trained one is the first result.
        stages: those that take steps.
    """

    def __init__(self, run: Run, start: Start, stages: list[Stage]) -> None:
        self._run, self._start, self._stages = run, start, stages
        self._folder = run.dir / "stages"
        self._results: list[Result] = []
        self._score = ""
        self._index = self._done = 0
        self._model = start.model
        self._begun = False
        self._sample: Tensor = start.workload.training_data(0).draw()[0].to(run.device)

    def step(self, step: int, batch: Batch) -> dict[str, float | Tensor]:
        """One step of the present stage, and at its end its score; returns what is to be logged."""
        self._begin()
        stage = self._stages[self._index]
        metrics: dict[str, float | Tensor] = dict(stage.step(step, batch))
        self._done += 1
        if self._done == stage.steps:
            self._model = stage.end()
            score = self.note(stage.name, self._model)
            metrics[f"{stage.name}_{self._score}"] = score
            self._index, self._done, self._begun = self._index + 1, 0, False
        return metrics

    def close(self) -> nn.Module:
        """The model that the last stage left."""
        if not self._stages:
            self._note_start()
        return self._model

    def note(self, name: str, model: nn.Module) -> float:
        """Save, score and measure a model; returns its score."""
        folder = self._folder / name
        save(model.eval(), folder)
        (self._score, score), *_ = self._start.workload.evaluate(model).items()
        self._results.append(measure(name, model, score, folder, self._sample))
        return score

    def show(self) -> None:
        """Print the results, draw them, and write them to ``stages.json``."""
        self._run.print(comparison(self._results, self._score))
        self._run.figure("trade_off", trade_off(self._results, self._score))
        self._run.figure("stages", bars(self._results, self._score))
        rows = [result._asdict() for result in self._results]
        (self._run.dir / "stages.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

    def final(self) -> dict[str, float]:
        """Score and size of each stage's model: what is the same whenever it runs again."""
        scores = {f"{one.stage}_{self._score}": one.score for one in self._results}
        return scores | {f"{one.stage}_bytes": float(one.disk_bytes) for one in self._results}

    def state_dict(self) -> dict[str, Any]:
        return {
            "index": self._index,
            "done": self._done,
            "score": self._score,
            "results": [tuple(result) for result in self._results],
            "stage": self._stages[self._index].state_dict() if self._begun else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._index, self._done, self._score = state["index"], state["done"], state["score"]
        self._results = [Result(*row) for row in state["results"]]
        if self._results:
            self._model = load(self._folder / self._results[-1].stage).to(self._run.device)
        if state["stage"]:
            self._begin()
            self._stages[self._index].load_state_dict(state["stage"])

    def _begin(self) -> None:
        """Give the present stage its model and, if there is one, the model that was trained whole."""
        if self._begun:
            return
        if self._index == 0:
            self._note_start()
        teacher = load(self._folder / "dense").to(self._run.device) if self._results else None
        self._stages[self._index].begin(self._model, teacher)
        self._begun = True

    def _note_start(self) -> None:
        if self._start.trained and not self._results:
            self.note("dense", self._model)
