"""Models from checkpoints on disk, and back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from athena_nn._decoder import Decoder
from athena_nn._pretrained_family import HEAD, Config, Family, is_tied, misfits_of_all
from athena_nn._pretrained_files import (
    DTYPES,
    Stored,
    read_config,
    read_tensors,
    stored_tensors,
    write_checkpoint,
)
from athena_nn._pretrained_gpt2 import GPT2
from athena_nn._pretrained_llama import LLAMA

FAMILIES = (LLAMA, GPT2)
# Constants that older checkpoints hold: rotary frequencies, and GPT-2's causal masks.
IGNORED = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


def from_pretrained(
    folder: str | PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Decoder:
    """Read a language model from a folder as transformers writes it: config.json and safetensors.

    Nothing is downloaded, and no pickle is opened. The model types ``llama`` (Llama 2 and 3, with linear,
    Llama-3 and YaRN scaling), ``mistral``, ``qwen2`` and ``gpt2`` are supported. Tensors are copied one
    by one to where they belong, so that loading takes the memory of one copy of the weights.

    Args:
        folder: with ``config.json`` and either ``model.safetensors`` or ``model.safetensors.index.json`` and
            the files that it names.
        dtype: of all parameters; None means the one that most of the stored elements have.
        device: where to put them; None means torch's default device.

    Returns a model in eval mode. Its ``max_length`` is the checkpoint's; token ids of beginnings and ends
    are not a model's but the tokenizer's.

    Raises FileNotFoundError if the folder or a file in it is missing; and ValueError for another ``dtype``
    than those of the stored, for another model type or an option that is not supported, for more layers than
    are stored, for tensors that are missing, unexpected or of another shape, all of them named, for broken
    files, for an index that leads out of the folder, and for pickles, with the command that converts them.
    Source: Touvron et al. 2023, arXiv:2302.13971 (Llama); Grattafiori et al. 2024, arXiv:2407.21783 (Llama
    3); Jiang et al. 2023, arXiv:2310.06825 (Mistral); Yang et al. 2024, arXiv:2407.10671 (Qwen2); Radford
    et al. 2019 (GPT-2). Departs from them: no.

    >>> from tempfile import TemporaryDirectory
    >>> from athena_nn import RotaryPositions
    >>> rotary = RotaryPositions(8)
    >>> model = Decoder(100, 32, num_layers=2, num_heads=4, ff_dim=64, max_length=512, positions=rotary)
    >>> tokens = torch.randint(100, (1, 9))
    >>> with TemporaryDirectory() as folder:
    ...     save_pretrained(model, folder)
    ...     torch.equal(from_pretrained(folder)(tokens), model(tokens))
    True
    """
    folder = Path(folder)
    if dtype not in (None, *DTYPES.values()):
        raise ValueError(
            f"`dtype` must be None or one of {', '.join(map(str, DTYPES.values()))}; got {dtype}."
        )
    config = Config(read_config(folder))
    family = _family(config)
    found = stored_tensors(folder)
    model = _built(family, config, found)
    tied = is_tied(model)
    stored = _matched(family, family.tensors(model), found, config.model_type)
    model = model.to(_usual_dtype(stored) if dtype is None else dtype)
    model.to_empty(device=torch.get_default_device() if device is None else device)
    if tied:  # which `to_empty` undoes
        model.head.weight = model.embedding.weight
    parts = family.tensors(model)
    spelled_out = {name: stored.pop(name) for name in (HEAD,) if tied and name in stored}
    for name, tensor in read_tensors(stored):
        parts[name].copy_(tensor)
    for name, tensor in read_tensors(spelled_out):
        if not torch.equal(tensor.to(model.head.weight), model.head.weight):
            raise ValueError(
                f"config.json says that the head is the embedding, but {name} is another matrix. "
                "Set `tie_word_embeddings` to false there."
            )
    return model.eval()


def save_pretrained(
    model: Decoder, folder: str | PathLike[str], *, max_shard_bytes: int = 5_000_000_000
) -> None:
    """Write a language model as transformers reads it: config.json and safetensors.

    What the model is built from decides the model type. With `RotaryPositions`, RMSNorm and swiglu it is
    ``llama``, ``mistral`` if every layer has one window, ``qwen2`` if queries, keys and values alone have
    biases; with `LearnedPositions`, LayerNorm, biases and a plain activation it is ``gpt2``. Of what acts in
    training alone, the rates of dropout are written that the model type has.

    Args:
        model: as trained, or loaded by `from_pretrained`, which gives the same model back.
        folder: made if needed; an earlier checkpoint in it is replaced, once all files are written.
        max_shard_bytes: weights beyond are split into files of at most this size, and an index.

    Raises ValueError for a model that no model type expresses, with the reasons, and if ``max_shard_bytes``
    is below 1; TypeError for anything but a `Decoder`.

    >>> from tempfile import TemporaryDirectory
    >>> from athena_nn import LearnedPositions
    >>> model = Decoder(
    ...     100,
    ...     32,
    ...     num_layers=2,
    ...     num_heads=4,
    ...     ff_dim=64,
    ...     positions=LearnedPositions(16, 32),
    ...     activation="gelu-tanh",
    ...     norm="layer",
    ...     bias=True,
    ... )
    >>> with TemporaryDirectory() as folder:
    ...     save_pretrained(model, folder)
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['config.json', 'model.safetensors']
    """
    if not isinstance(model, Decoder):
        raise TypeError(f"`model` must be a Decoder; got {type(model).__name__}.")
    if max_shard_bytes < 1:
        raise ValueError(f"`max_shard_bytes` must be at least 1; got {max_shard_bytes}.")
    family = next((one for one in FAMILIES if isinstance(model.positions, one.positions)), None)
    if family is None:
        positions = ", ".join(one.positions.__name__ for one in FAMILIES)
        raise ValueError(
            f"`model` must have positions that a model type has ({positions}) to be saved; "
            f"got {type(model.positions).__name__}."
        )
    misfits = misfits_of_all(model) or family.misfits(model)
    if misfits:
        raise ValueError(
            f"`model` must fit one of {', '.join(family.model_types)} to be saved; got {'; '.join(misfits)}."
        )
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    # without these two, transformers would take its defaults for beginning and end
    config = {**family.describe(model), "torch_dtype": dtype, "bos_token_id": None, "eos_token_id": None}
    write_checkpoint(Path(folder), config, family.tensors(model), max_shard_bytes=max_shard_bytes)


class _Undrawn(TorchFunctionMode):
    """Draws nothing into tensors: on the meta device the first draw would import for a second."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.init.normal_:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _family(config: Config) -> Family:
    model_type = config.model_type
    if config.values.get("quantization_config") is not None:
        raise ValueError("config.json: `quantization_config` is not supported; save the weights unquantized.")
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    supported = ", ".join(sorted(name for family in FAMILIES for name in family.model_types))
    raise ValueError(f"config.json: `model_type` must be one of {supported}; got {model_type!r}.")


def _built(family: Family, config: Config, found: Mapping[str, Stored]) -> Decoder:
    """A model without memory. Raises ValueError for more layers than are stored: building would not end."""
    layers = config.optional(family.depth, int) or 0  # which `build` refuses
    numbers = {number for name in found for number in re.findall(r"\.(\d+)\.", name)}
    if layers > len(numbers):
        raise ValueError(
            f"config.json: `{family.depth}` must be the number of layers among the tensors, {len(numbers)}; "
            f"got {layers}."
        )
    try:
        with torch.device("meta"), _Undrawn():  # no memory and no random numbers
            return family.build(config)
    except RuntimeError as error:  # of sizes that overflow together
        reason = str(error).partition("\n")[0]
        raise ValueError(f"config.json describes a model that cannot be built: {reason}.") from error


def _matched(
    family: Family, parts: Mapping[str, Tensor], stored: Mapping[str, Stored], model_type: str
) -> dict[str, Stored]:
    """What is stored, under the names of ``parts``; raises ValueError unless all fits."""
    bare = not any(name.startswith(family.prefix) for name in stored)  # of a model without a head
    found = {
        family.prefix + name if bare else name: one
        for name, one in stored.items()
        if not name.endswith(IGNORED)
    }
    tied_head = () if HEAD in parts else (HEAD,)
    problems = [f"{name} is missing" for name in parts if name not in found]
    problems += [f"{name} is unexpected" for name in found if name not in parts and name not in tied_head]
    for name in (name for name in parts if name in found):
        wanted, one = tuple(parts[name].shape), found[name]
        if one.shape != wanted:
            problems.append(f"{name} must have shape {wanted}, got {one.shape}")
        if one.dtype not in DTYPES:
            problems.append(f"{name} must be one of {', '.join(DTYPES)}, got {one.dtype}")
    if problems:
        raise ValueError(f"The tensors do not fit config.json's {model_type}: {'; '.join(problems)}.")
    return found


def _usual_dtype(stored: Mapping[str, Stored]) -> torch.dtype:
    sizes: Counter[str] = Counter()
    for one in stored.values():
        sizes[one.dtype] += torch.Size(one.shape).numel()
    return DTYPES[sizes.most_common(1)[0][0]]
