"""ONNX: what onnxruntime computes from an exported model, whole and token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from athena_nn import AlibiPositions, Decoder, DecodingStep, Encoder, RelativeBias, RotaryPositions

POSITIONS = {
    "rotary": lambda: RotaryPositions(8),
    "alibi": lambda: AlibiPositions(4),
    "relative-bias": lambda: RelativeBias(4, bidirectional=False),
}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
# of torch's own exporter
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:# The axis name:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


def exported(model: nn.Module, example: tuple, shapes: tuple, folder: Path) -> onnxruntime.InferenceSession:
    program = torch.onnx.export(model, example, dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    program.save(folder / "model.onnx")
    return onnxruntime.InferenceSession(folder / "model.onnx")


def run(session: onnxruntime.InferenceSession, *inputs: Tensor) -> list[Tensor]:
    names = [one.name for one in session.get_inputs()]
    found = session.run(None, dict(zip(names, (one.numpy() for one in inputs), strict=True)))
    return [torch.from_numpy(np.asarray(one)) for one in found]


def make(positions: str, **options) -> Decoder:
    part = POSITIONS[positions]()
    sizes = {"num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ff_dim": 48}
    return Decoder(50, 32, **sizes, positions=part, **options).eval()


@pytest.mark.parametrize("positions", POSITIONS)
@torch.no_grad()
def test_a_decoder_whole(positions, tmp_path):
    model = make(positions)
    shapes = ({0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("time", max=64)},)
    session = exported(model, (torch.randint(50, (2, 8)),), shapes, tmp_path)
    for shape in ((1, 1), (3, 13)):
        tokens = torch.randint(50, shape)
        torch.testing.assert_close(run(session, tokens)[0], model(tokens), **CLOSE)


@torch.no_grad()
def test_an_encoder_whole(tmp_path):
    model = Encoder(50, 32, num_layers=2, num_heads=4, ff_dim=48, norm="layer", activation="gelu").eval()
    shapes = ({0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("time", max=64)},)
    session = exported(model, (torch.randint(50, (2, 8)),), shapes, tmp_path)
    tokens = torch.randint(50, (3, 13))
    torch.testing.assert_close(run(session, tokens)[0], model(tokens), **CLOSE)


@pytest.mark.parametrize(
    ("positions", "window", "int8"),
    [("rotary", None, False), ("rotary", 4, False), ("rotary", None, True), ("alibi", None, False)],
)
@torch.no_grad()
def test_decoding_with_the_cache_as_input_and_output(positions, window, int8, tmp_path):
    """A prompt, single tokens and chunks through one graph; a sliding window keeps its size (pitfall 12)."""
    model = make(positions, window=window)
    step = DecodingStep(model, capacity=16, int8=int8)
    tokens = torch.randint(50, (3, 16))
    session = exported(step, step.example(), step.dynamic_shapes(), tmp_path)
    (lengths, state), cache = step.empty(3), model.new_cache(3, int8=int8)
    for a, b in ((0, 5), (5, 6), (6, 9), (9, 16)):
        logits, lengths, *state = run(session, tokens[:, a:b], lengths, *state)
        torch.testing.assert_close(logits, model(tokens[:, a:b], cache=cache), **CLOSE)
    assert lengths.tolist() == [16] * 3
    assert all(part.shape[2] == (16 if window is None else window) + 1 for part in state)
