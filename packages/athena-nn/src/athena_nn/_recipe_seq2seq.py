"""The recipe `seq2seq`: an encoder and a decoder that learn to reverse and to sort digit strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_core import AthenaError, Configured, Run, backend, component
from athena_core.figures import learning_curves
from athena_nn._cross_weights import cross_attention_weights
from athena_nn._decoder import Decoder
from athena_nn._digits import (
    IGNORED,
    START,
    STOP,
    TASKS,
    VOCABULARY,
    DigitPairs,
    Digits,
    answer,
    held_out_strings,
    question,
)
from athena_nn._encoder import Encoder
from athena_nn._encoder_decoder import EncoderDecoder
from athena_nn._generate import generate
from athena_nn._recipe import TOLD, TransformerRecipe, curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVALUATED_AT_ONCE = 1024  # strings, to bound the memory of their caches
Matches = dict[str, dict[int, list[bool]]]  # by task and length, whether each answer is right to the digit


@dataclass(kw_only=True)
class Seq2Seq(TransformerRecipe):
    """Train an encoder-decoder to reverse and to sort digit strings; a token before them says which.

    A hash of its digits keeps every tenth string out of training, in both tasks. On a sample of those, the
    same for every seed, greedy answers are compared to the digit.

    Args:
        steps: training steps.
        layers: transformer blocks, of the encoder and of the decoder each.
        shortest: digits of the shortest string, at least 2.
        longest: digits of the longest; lengths are drawn alike.
        heldout: at most so many held-out strings of each length, asked in both tasks.
    """

    steps: int = 1500
    batch: int = 64
    width: int = 128
    layers: int = 2
    dtype: Literal["bfloat16", "float32"] = "float32"
    eval_every: int = 250
    positions: Configured = component("positions", "sinusoidal", given=TOLD)
    shortest: int = 4
    longest: int = 16
    heldout: int = 100

    @classmethod
    def example(cls) -> Self:
        return cls(
            steps=4,
            eval_every=2,
            width=32,
            layers=1,
            heads=2,
            batch=4,
            shortest=2,
            longest=4,
            heldout=2,
        )

    def run(self, run: Run) -> Mapping[str, float]:
        self.check()
        lengths = range(self.shortest, self.longest + 1)
        held = [digits for length in lengths for digits in held_out_strings(length, self.heldout)]
        model = self.build().to(run.device)
        run.print(f"{len(held):,} strings held out, each to be reversed and to be sorted")

        def held_out() -> dict[str, float]:
            return shares(self.matches(model, held))

        pairs = DigitPairs(batch=self.batch, lengths=(self.shortest, self.longest), seed=run.seed)
        with self.train(run, model, pairs, unit="strings", units_per_step=self.batch, evaluate=held_out):
            found = self.matches(model, held)
            maps = attention_maps(model, held[-1])
        final = shares(found)
        run.print(f"held-out strings answered right:\n{table(found)}")
        run.figure("learning_curve", learning_curve(run.dir / "metrics.jsonl", self.steps, final))
        run.figure("cross_attention", maps)
        return final

    def check(self) -> None:
        super().check()
        self.check_at_least_1("heldout")
        if not 2 <= self.shortest <= self.longest:
            raise AthenaError(
                "`shortest` must be at least 2, and at most `longest`; "
                f"got {self.shortest} and {self.longest}."
            )

    def build(self) -> EncoderDecoder:
        """The model; a source is a string and its task, a target a string between two tokens."""
        encoder = Encoder(
            VOCABULARY,
            **self.stack_options(max_length=self.longest + 1, bidirectional=True),
        )
        decoder = Decoder(
            VOCABULARY,
            memory_dim=self.width,
            **self.stack_options(max_length=self.longest + 2),
        )
        return EncoderDecoder(encoder, decoder, start_token=START)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        source, real, given, labels = batch
        logits = model(source, given, source_padding=real).float()
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        counted = labels != IGNORED
        right = (logits.argmax(dim=-1) == labels)[counted]
        return loss, {"token_accuracy": right.float().mean()}

    def matches(self, model: EncoderDecoder, strings: Sequence[Digits]) -> Matches:
        """Which strings are answered right to the digit, greedily."""
        device = model.decoder.head.weight.device
        found: Matches = {task: {} for task in TASKS}
        for task in TASKS:
            for start in range(0, len(strings), EVALUATED_AT_ONCE):
                some = strings[start : start + EVALUATED_AT_ONCE]
                with backend(device).autocast(self.torch_dtype):
                    answers = generate(
                        model,
                        [torch.tensor(question(task, digits), device=device) for digits in some],
                        max_new_tokens=self.longest + 1,
                        stop_tokens=(STOP,),
                    )
                for digits, said in zip(some, answers, strict=True):
                    found[task].setdefault(len(digits), []).append(said.tolist() == answer(task, digits))
        return found


def shares(matches: Matches) -> dict[str, float]:
    """The share of right answers, to all questions and to those of each task."""
    by_task = {task: [m for some in lengths.values() for m in some] for task, lengths in matches.items()}
    parts = {f"exact_match_{task}": fmean(some) for task, some in by_task.items()}
    return {"exact_match": fmean(chain(*by_task.values())), **parts}


def table(matches: Matches) -> str:
    """The share of right answers for each length and task.

    >>> print(table({"reverse": {2: [True, True]}, "sort": {2: [True, False]}}))
    length   reverse      sort
         2   100.0 %    50.0 %
       all   100.0 %    50.0 %
    """
    final, tasks = shares(matches), list(matches)
    lengths = matches[tasks[0]]
    rows = {str(length): [fmean(matches[task][length]) for task in tasks] for length in lengths}
    rows["all"] = [final[f"exact_match_{task}"] for task in tasks]
    lines = ["length" + "".join(f"{task:>10}" for task in tasks)]
    lines += [f"{name:>6}" + "".join(f"{100 * x:8.1f} %" for x in row) for name, row in rows.items()]
    return "\n".join(lines)


def learning_curve(metrics: Path, steps: int, final: Mapping[str, float]) -> Figure:
    """Draw the share of right tokens in training, and of right answers to held-out questions."""
    curves = {"training, tokens": curve(metrics, "token_accuracy")}
    for task in TASKS:
        name = f"exact_match_{task}"
        held, share = curve(metrics, name), final[name]
        curves[f"held out, whole answers, {task}: {share:.1%}"] = ([*held[0], steps], [*held[1], share])
    title = "Reversing and sorting digit strings"
    return learning_curves(curves, x_label="step", y_label="share that is right", title=title)


def attention_maps(model: EncoderDecoder, digits: Digits) -> Figure:
    """Draw what the decoder's last block looks at as it is given the right answers, mean of its heads."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.8), dpi=150, layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(TASKS))
    colours = ScalarMappable(Normalize(0, 1), "Blues")
    device = model.decoder.head.weight.device
    for axes, task in zip(panels, TASKS, strict=True):
        said = answer(task, digits)
        source = torch.tensor(question(task, digits), device=device)
        target = torch.tensor([START, *said[:-1]], device=device)
        weights = cross_attention_weights(model, source, target)[-1].mean(dim=0).cpu().numpy()
        axes.imshow(weights, cmap=colours.cmap, norm=colours.norm)
        axes.set_xticks(range(len(source)), [task, *map(str, digits)])
        axes.get_xticklabels()[0].set_rotation(90)
        axes.set_yticks(range(len(said)), [*map(str, said[:-1]), "end"])
        axes.set(xlabel="question", ylabel="answer")
        axes.set_title(task, loc="left")
    figure.align_xlabels(panels)
    figure.colorbar(colours, ax=panels, label="weight", shrink=0.8)
    figure.suptitle("Cross-attention of the last block", x=0.01, ha="left")
    return figure
