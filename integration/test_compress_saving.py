"""athena-nn's models through athena-compress's files: whole and quantized, in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from athena_compress import load, quantize, save
from athena_nn import AlibiPositions, Decoder, Encoder, RotaryPositions, YarnScaling, prepare_for_decoding

_SCRIPT = """
import sys
import torch
from safetensors.torch import load_file
from athena_compress import load

torch.set_num_threads(int(sys.argv[3]))
pair = load_file(sys.argv[2])
with torch.no_grad():
    assert torch.equal(load(sys.argv[1])(pair["x"]), pair["y"])
"""


@torch.no_grad()
def check(model: nn.Module, folder: Path) -> nn.Module:
    """Equal bits here and in a process that has imported nothing but athena-compress."""
    model.eval()
    save(model, folder / "model")
    tokens = torch.randint(50, (2, 9))
    again = load(folder / "model")
    y = model(tokens)
    assert torch.equal(again(tokens), y)
    save_file({"x": tokens, "y": y}, folder / "pair")
    command = [sys.executable, "-c", _SCRIPT, folder / "model", folder / "pair", str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return again


def decoder(**options) -> Decoder:
    positions = RotaryPositions(8, scaling=YarnScaling(2.0, original_length=32))
    sizes = {"num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ff_dim": 48}
    return Decoder(50, 32, **sizes, positions=positions, **options)


def test_a_decoder_with_tied_embeddings_and_rotary_positions(tmp_path):
    model = decoder()
    again = check(model, tmp_path)
    assert again.head.weight is again.embedding.weight
    assert repr(again) == repr(model)
    names = set(load_file(tmp_path / "model" / "model.safetensors"))
    assert len({"embedding.weight", "head.weight"} & names) == 1
    assert len({id(part) for part in again.modules() if isinstance(part, RotaryPositions)}) == 1


def test_a_loaded_decoder_learns_and_decodes_with_a_cache(tmp_path):
    model = decoder().eval()
    save(model, tmp_path)
    again = load(tmp_path)
    tokens = torch.randint(50, (2, 6))
    with torch.no_grad():
        cache = again.new_cache(2, capacity=8)
        parts = [again(tokens[:, :4], cache=cache), again(tokens[:, 4:], cache=cache)]
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=1e-4, atol=1e-5)
    again(tokens).logsumexp(-1).mean().backward()
    assert again.head.weight.grad is again.embedding.weight.grad


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int8-weight-only"])
def test_a_quantized_decoder(scheme, tmp_path):
    check(quantize(decoder(), scheme), tmp_path)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.int8], ids=str)
def test_a_decoder_prepared_for_decoding(dtype, tmp_path):
    check(prepare_for_decoding(decoder().eval(), dtype=dtype), tmp_path)


def test_an_encoder(tmp_path):
    sizes = {"num_layers": 1, "num_heads": 4, "ff_dim": 48}
    check(Encoder(50, 32, **sizes, positions=AlibiPositions(4), activation=nn.GELU()), tmp_path)
