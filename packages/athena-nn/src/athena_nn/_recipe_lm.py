"""The recipe `lm`: a byte-level language model of any text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch.nn.functional as F
from torch import Tensor, nn

from athena_core import AthenaError, Run, backend, place
from athena_core.figures import learning_curves
from athena_nn._bits import unigram_entropy, xz_bits
from athena_nn._decoder import Decoder
from athena_nn._generate import generate
from athena_nn._recipe import TransformerRecipe, curve
from athena_nn._text import read_text, split_text
from athena_nn._windows import Windows, as_tensor, bits_per_byte

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROMPT_BYTES = 32
WORDS = {
    "heldout_bits_per_byte": "this model",
    "unigram_entropy": "unigram entropy",
    "xz_alone": "xz -9e, the held-out text alone",
    "xz_given_training_text": "xz -9e, given the training text",
}


@dataclass(kw_only=True)
class LM(TransformerRecipe):
    """Train a byte-level decoder on a text, and compare it with xz on the part held out.

    The last tenth of the text is held out. Its bits per byte are shown beside its unigram entropy
    and what ``xz -9e`` needs for it, alone and given the training text. The defaults train 3.2 M
    parameters on 0.47 MB in some four minutes on two CPU cores.

    Args:
        steps: training steps.
        data: a file, or a folder whose text files are read; by default Python's documentation topics.
        heldout: at most so many bytes are held out.
        context: bytes in a window.
        window: how many bytes attention sees, the present one included; null means the whole context.
        tie_embeddings: whether bytes are predicted by the matrix that embeds them.
        sample_length: bytes of text generated before and after training, less than ``context``.
        temperature: of that text; 0 is greedy.
    """

    steps: int = 600
    data: Path | None = None
    heldout: int = 65_536
    context: int = 256
    window: int | None = None
    tie_embeddings: bool = True
    sample_length: int = 200
    temperature: float = 0.8

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
        self.check()
        train, held = self._texts()
        marks = {
            "unigram_entropy": unigram_entropy(held),
            "xz_alone": xz_bits(held),
            "xz_given_training_text": xz_bits(held, given=train),
        }
        run.print(f"{len(train):,} bytes to train on, {len(held):,} held out")
        model = place(self.build(), run.device, rows=self.batch * self.context)
        self._show_sample(run, model, held, "before training")

        windows, size = self.training_data(run.seed), self.batch * self.context
        evaluate = partial(self.evaluate, model)
        with self.train(run, model, windows, unit="tokens", units_per_step=size, evaluate=evaluate):
            final = {**evaluate(), **marks}
            self._show_sample(run, model, held, "after training")
        costs = "".join(f"\n  {final[name]:.3f}  {words}" for name, words in WORDS.items())
        run.print(f"bits per byte of the held-out text:{costs}")
        run.figure("learning_curve", learning_curve(run.dir / "metrics.jsonl", self.steps, final))
        return final

    def check(self) -> None:
        super().check()
        self.check_at_least_1("heldout", "context")
        if self.window is not None:
            self.check_at_least_1("window")
        if self.sample_length < 0:
            raise AthenaError(f"`sample_length` must be at least 0; got {self.sample_length}.")
        if self.temperature != 0 and not 1e-6 <= self.temperature < float("inf"):
            raise AthenaError(
                f"`temperature` must be 0, or finite and at least 1e-6; got {self.temperature}."
            )
        if self.sample_length >= self.context:
            raise AthenaError(
                f"`sample_length` must be below `context` = {self.context}, as a prompt goes before it; "
                f"got {self.sample_length}."
            )

    def build(self) -> Decoder:
        """The model that the options describe."""
        return Decoder(
            256,
            window=self.window,
            tie_embeddings=self.tie_embeddings,
            **self.stack_options(max_length=self.context),
        )

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        inputs, targets = batch
        # all logits at once: for 256 of them, `Decoder.loss` takes longer
        loss = F.cross_entropy(model(inputs).float().flatten(0, 1), targets.flatten())
        return loss, {"bits_per_byte": loss.detach() / log(2)}

    def training_data(self, seed: int) -> Windows:
        """Batches of inputs and targets, drawn from the text to train on."""
        train, _ = self._texts()
        return Windows(train, batch=self.batch, context=self.context, seed=seed)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Bits a byte of the text held out."""
        train, held = self._texts()
        bits = bits_per_byte(
            model, held, before=train, context=self.context, batch=self.batch, dtype=self.torch_dtype
        )
        return {"heldout_bits_per_byte": bits}

    def _texts(self) -> tuple[bytes, bytes]:
        return split_text(read_text(self.data), context=self.context, heldout=self.heldout)

    def _show_sample(self, run: Run, model: Decoder, held: bytes, when: str) -> None:
        prompt = held[: min(PROMPT_BYTES, self.context - self.sample_length)]
        tokens = as_tensor(prompt).long()[None].to(run.device)
        with backend(run.device).autocast(self.torch_dtype):
            (new,) = generate(
                model,
                tokens,
                max_new_tokens=self.sample_length,
                temperature=self.temperature,
                seed=run.seed if self.temperature else None,
            )
        run.print(f"--- {when}: [{printable(prompt)}]\n{printable(bytes(new.tolist()))}\n---")


def printable(text: bytes) -> str:
    r"""The text with a dot for all that is not text, and for all that a terminal might obey.

    >>> printable(b"one\n\x1b[2J two")
    'one\n·[2J two'
    """
    shown = (c if c.isprintable() or c == "\n" else "·" for c in text.decode(errors="replace"))
    return "".join(shown).replace("\N{REPLACEMENT CHARACTER}", "·")


def learning_curve(metrics: Path, steps: int, final: Mapping[str, float]) -> Figure:
    """Draw bits per byte over steps, training and held out, and the ``final`` numbers beside them."""
    held = curve(metrics, "heldout_bits_per_byte")
    bits = final["heldout_bits_per_byte"]
    curves = {
        "training": curve(metrics, "bits_per_byte"),
        f"held out: {bits:.2f}": ([*held[0], steps], [*held[1], bits]),
    }
    levels = {f"{WORDS[name]}: {final[name]:.2f}": final[name] for name in list(WORDS)[1:]}
    title = "Byte-level language model"
    return learning_curves(curves, x_label="step", y_label="bits per byte", title=title, levels=levels)
