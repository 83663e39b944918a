"""The recipe `lm`: a byte-level language model of any text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import torch
import torch.nn.functional as F

from athena_core import AthenaError, Configured, Recipe, Run, backend, component, create
from athena_core.figures import learning_curves
from athena_nn._bits import unigram_entropy, xz_bits
from athena_nn._decoder import DecoderLM
from athena_nn._sample import sample
from athena_nn._text import read_text, split_text
from athena_nn._windows import Windows, as_tensor, bits_per_byte

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROMPT_BYTES = 32
WORDS = {
    "unigram_entropy": "unigram entropy",
    "xz_alone": "xz -9e, the held-out text alone",
    "xz_given_training_text": "xz -9e, given the training text",
}


@dataclass(kw_only=True)
class LM(Recipe):
    """Train a byte-level decoder on a text, and compare it with xz on the part held out.

    The last tenth of the text is held out. Its bits per byte are shown beside its unigram entropy
    and what ``xz -9e`` needs for it, alone and given the training text. The defaults train 3.2 M
    parameters on 0.47 MB in some four minutes on two CPU cores.

    Args:
        steps: training steps.
        data: a file, or a folder whose text files are read; by default Python's documentation topics.
        heldout: at most so many bytes are held out.
        batch: windows a step.
        context: bytes in a window.
        width: width of the model, a multiple of ``heads``.
        layers: transformer blocks.
        heads: attention heads of each.
        dropout: probability of dropping while training.
        dtype: of matrix products; parameters stay float32.
        eval_every: steps between two evaluations on the held-out text.
        sample_length: bytes of text generated before and after training.
        temperature: of that text; 0 is greedy.
        optimizer: what updates the parameters; weight decay is for matrices alone.
        schedule: of the learning rate, once a step.
        positions: how the model knows the order of bytes.
    """

    steps: int = 600
    data: Path | None = None
    heldout: int = 65_536
    batch: int = 16
    context: int = 256
    width: int = 256
    layers: int = 4
    heads: int = 4
    dropout: float = 0.0
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    eval_every: int = 100
    sample_length: int = 200
    temperature: float = 0.8
    optimizer: Configured = component("optimizer", "adamw", lr=2e-3, weight_decay=0.1, max_norm=1.0)
    schedule: Configured = component(
        "schedule", "warmup-cosine", given=("total_steps",), warmup_steps=0.08, min_ratio=0.1
    )
    positions: Configured = component(
        "positions", "rotary", given=("head_dim", "num_heads", "embed_dim", "max_length")
    )

    @classmethod
    def example(cls) -> Self:
        return cls(
            steps=4,
            eval_every=2,
            sample_length=8,
            width=32,
            layers=1,
            heads=2,
            context=64,
            batch=2,
            heldout=512,
        )

    def run(self, run: Run) -> Mapping[str, float]:
        self._check()
        train, held = split_text(read_text(self.data), context=self.context, heldout=self.heldout)
        marks = {
            "unigram_entropy": unigram_entropy(held),
            "xz_alone": xz_bits(held),
            "xz_given_training_text": xz_bits(held, given=train),
        }
        run.print(f"{len(train):,} bytes to train on, {len(held):,} held out")
        model = self._model().to(run.device)
        self._show_sample(run, model, held, "before training")
        self._train(run, model, train, held)
        bits = self._heldout_bits(model, train, held)
        self._show_sample(run, model, held, "after training")
        costs = "".join(f"\n  {value:.3f}  {WORDS[name]}" for name, value in marks.items())
        run.print(f"bits per byte of the held-out text:\n  {bits:.3f}  this model{costs}")
        run.figure("learning_curve", learning_curve(run.dir / "metrics.jsonl", (self.steps, bits), marks))
        return {"heldout_bits_per_byte": bits, **marks}

    def _check(self) -> None:
        for name in ("steps", "heldout", "batch", "context", "width", "layers", "heads", "eval_every"):
            if getattr(self, name) < 1:
                raise AthenaError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.width % self.heads:
            raise AthenaError(f"`heads` must divide `width` = {self.width}; got {self.heads}.")
        if not 0 <= self.dropout < 1:
            raise AthenaError(f"`dropout` must lie in [0, 1); got {self.dropout}.")
        if self.sample_length < 0 or not 0 <= self.temperature < float("inf"):
            raise AthenaError(
                "`sample_length` and `temperature` must be finite and at least 0; "
                f"got {self.sample_length} and {self.temperature}."
            )

    def _model(self) -> DecoderLM:
        positions = self.positions.create(
            head_dim=self.width // self.heads,
            num_heads=self.heads,
            embed_dim=self.width,
            max_length=self.context,
        )
        return DecoderLM(
            vocabulary=256,
            embed_dim=self.width,
            num_layers=self.layers,
            num_heads=self.heads,
            ff_dim=_gated_width(self.width),
            max_length=self.context,
            dropout=self.dropout,
            positions=positions,
        )

    def _train(self, run: Run, model: DecoderLM, train: bytes, held: bytes) -> None:
        optimizer = self.optimizer.create(create("param-groups", "decay-matrices", model))
        schedule = self.schedule.create(optimizer, total_steps=self.steps)
        windows = Windows(train, batch=self.batch, context=self.context, seed=run.seed)
        dtype = getattr(torch, self.dtype)
        steps = run.steps(
            self.steps,
            unit="tokens",
            units_per_step=self.batch * self.context,
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            windows=windows,
        )
        for step in steps:
            inputs, targets = (part.to(run.device) for part in windows.draw())
            optimizer.zero_grad()
            with backend(run.device).autocast(dtype):
                logits = model(inputs)
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
            loss.backward()
            run.check_finite(step, model, loss)
            optimizer.step()
            schedule.step()
            nats = loss.item()  # one wait for the device
            metrics = {"bits_per_byte": nats / log(2)}
            if step % self.eval_every == 0 and step < self.steps:
                metrics["heldout_bits_per_byte"] = self._heldout_bits(model, train, held)
            run.log(step, loss=nats, **metrics)

    def _heldout_bits(self, model: DecoderLM, train: bytes, held: bytes) -> float:
        dtype = getattr(torch, self.dtype)
        return bits_per_byte(model, held, before=train, context=self.context, batch=self.batch, dtype=dtype)

    def _show_sample(self, run: Run, model: DecoderLM, held: bytes, when: str) -> None:
        prompt = held[:PROMPT_BYTES]
        tokens = as_tensor(prompt).long()[None].to(run.device)
        with backend(run.device).autocast(getattr(torch, self.dtype)):
            new = sample(
                model, tokens, max_new_tokens=self.sample_length, temperature=self.temperature, seed=run.seed
            )
        run.print(f"--- {when}: [{printable(prompt)}]\n{printable(bytes(new[0].tolist()))}\n---")


def _gated_width(width: int) -> int:
    """8/3 of the width, as many parameters as a plain layer of 4 times, rounded up to a multiple of 32."""
    return -(-8 * width // 3 // 32) * 32


def printable(text: bytes) -> str:
    r"""The text with a dot for all that is not text, and for all that a terminal might obey.

    >>> printable(b"one\n\x1b[2J two")
    'one\n·[2J two'
    """
    shown = (c if c.isprintable() or c == "\n" else "·" for c in text.decode(errors="replace"))
    return "".join(shown).replace("\N{REPLACEMENT CHARACTER}", "·")


def learning_curve(metrics: Path, final: tuple[int, float], marks: Mapping[str, float]) -> Figure:
    """Draw bits per byte over steps: training, held out up to ``final``, and ``marks`` as lines."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    held = [(row["step"], row["heldout_bits_per_byte"]) for row in rows if "heldout_bits_per_byte" in row]
    held_steps, held_bits = zip(*held, final, strict=True)
    curves = {
        "training": ([row["step"] for row in rows], [row["bits_per_byte"] for row in rows]),
        f"held out: {final[1]:.2f}": (held_steps, held_bits),
    }
    levels = {f"{WORDS[name]}: {value:.2f}": value for name, value in marks.items()}
    title = "Byte-level language model"
    return learning_curves(curves, x_label="step", y_label="bits per byte", title=title, levels=levels)
