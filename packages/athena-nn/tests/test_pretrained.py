"""Checkpoints on disk: round trips, the memory and order of loading, and every folder that is refused."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from athena_nn import (
    AlibiPositions,
    Decoder,
    Encoder,
    LearnedPositions,
    LinearScaling,
    Llama3Scaling,
    NTKScaling,
    RMSNorm,
    RotaryPositions,
    YarnScaling,
    from_pretrained,
    prepare_for_decoding,
    save_pretrained,
)

VOCABULARY, WIDTH, LENGTH = 31, 16, 64
LLAMA = {"num_kv_heads": 2, "attention_dropout": 0.2}
GPT2 = {"norm": "layer", "activation": "gelu-tanh", "bias": True, "dropout": 0.1, "ff_dropout": 0.0}


def decoder(**options: object) -> Decoder:
    """A decoder whose every parameter is drawn, gains and biases too."""
    defaults = {"num_layers": 3, "num_heads": 4, "ff_dim": 24, "max_length": LENGTH}
    model = Decoder(VOCABULARY, WIDTH, **{**defaults, "positions": RotaryPositions(4), **options})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def learned() -> LearnedPositions:
    return LearnedPositions(LENGTH, WIDTH)


def with_windows(windows: list[int | None], **options: object) -> Decoder:
    model = decoder(**options)
    for block, window in zip(model.layers(), windows, strict=True):
        block.attention.window = window
    return model


def without_feed_forward_bias(model: Decoder) -> Decoder:
    for block in model.layers():
        block.feed_forward.up.register_parameter("bias", None)
        block.feed_forward.down.register_parameter("bias", None)
    return model


MODELS = {
    "llama": lambda: decoder(**LLAMA),
    "llama-untied": lambda: decoder(**LLAMA, tie_embeddings=False),
    "llama-biases": lambda: decoder(bias=True),
    "llama-attention-biases": lambda: without_feed_forward_bias(decoder(bias=True)),
    "llama-eps": lambda: decoder(norm=lambda width: RMSNorm(width, eps=1e-3)),
    "llama-head-dim": lambda: decoder(head_dim=8, positions=RotaryPositions(8, base=500.0)),
    "llama-linear": lambda: decoder(positions=RotaryPositions(4, scaling=LinearScaling(3.0))),
    "llama-llama3": lambda: decoder(
        positions=RotaryPositions(4, scaling=Llama3Scaling(8.0, 1.0, 4.0, original_length=32))
    ),
    "llama-yarn": lambda: decoder(positions=RotaryPositions(4, scaling=YarnScaling(4.0, 16, truncate=False))),
    "mistral": lambda: decoder(window=5, **LLAMA),
    "qwen2": lambda: decoder(qkv_bias=True, **LLAMA),
    "qwen2-window": lambda: with_windows([None, 5, 5], qkv_bias=True),
    "qwen2-all-windows": lambda: decoder(window=5, qkv_bias=True),
    "gpt2": lambda: decoder(**GPT2, positions=learned()),
    "gpt2-untied-relu": lambda: decoder(
        **{**GPT2, "activation": "relu"}, positions=learned(), tie_embeddings=False
    ),
    "gpt2-gelu-unscaled": lambda: decoder(**{**GPT2, "activation": "gelu"}, positions=learned(), scale=1.0),
}


def tokens(batch: int = 2, time: int = 13) -> Tensor:
    return torch.randint(VOCABULARY, (batch, time))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llama's checkpoint in one file."""
    save_pretrained(decoder(**LLAMA), tmp_path / "llama")
    return tmp_path / "llama"


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))


def change_tensors(folder: Path, **changed: Tensor | None) -> None:
    path = folder / "model.safetensors"
    stored = {**load_file(path), **{name.replace("__", "."): tensor for name, tensor in changed.items()}}
    save_file({name: tensor for name, tensor in stored.items() if tensor is not None}, path)


@pytest.mark.parametrize("shard", [10**9, 4_000], ids=["whole", "sharded"])
@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name: str, shard: int, tmp_path: Path):
    """The same class of model with the same parameters, and logits equal to the last bit."""
    model = MODELS[name]()
    save_pretrained(model, tmp_path, max_shard_bytes=shard)
    loaded = from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == name.partition("-")[0]
    assert (tmp_path / "model.safetensors").exists() == (shard == 10**9)
    assert repr(loaded) == repr(model)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    text = tokens()
    assert torch.equal(loaded(text), model(text))
    assert torch.equal(loaded.loss(text, text), model.loss(text, text))


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_its_place(name: str, tmp_path: Path):
    """A parameter without one would keep what its memory held before."""
    model = MODELS[name]()
    save_pretrained(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(t.numel() for t in stored.values()) == sum(p.numel() for p in model.parameters())


def test_tied_head_is_stored_once_and_tied_again(folder: Path):
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model = from_pretrained(folder)
    assert model.head.weight is model.embedding.weight


def test_tied_head_may_be_spelled_out(folder: Path):
    before = from_pretrained(folder).state_dict()
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change_tensors(folder, lm_head__weight=embedding.clone())
    torch.testing.assert_close(from_pretrained(folder).state_dict(), before, rtol=0, atol=0)
    change_tensors(folder, lm_head__weight=embedding + 1)
    with pytest.raises(ValueError, match=r"lm_head\.weight is another matrix\. Set `tie_word_embeddings`"):
        from_pretrained(folder)


def test_loaded_model_is_in_eval_mode_and_trains(folder: Path):
    model = from_pretrained(folder)
    assert not model.training
    assert model.layers()[0].attention.dropout == 0.2
    model.train().loss(tokens(), tokens()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_loading_draws_no_random_numbers(folder: Path):
    before = torch.get_rng_state()
    from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_loading_never_builds_the_model_twice(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Memory for the weights is asked for once, without initialising it."""
    on = []
    draw = nn.init.normal_
    monkeypatch.setattr(
        nn.init, "normal_", lambda tensor, *a, **k: (on.append(tensor.device), draw(tensor))[1]
    )
    from_pretrained(folder)
    assert set(on) == {torch.device("meta")}


@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_as_stored_or_as_asked(stored: torch.dtype, tmp_path: Path):
    model = decoder(**LLAMA).to(stored)
    save_pretrained(model, tmp_path)
    assert {p.dtype for p in from_pretrained(tmp_path).parameters()} == {stored}
    asked = from_pretrained(tmp_path, dtype=torch.float64)
    assert {p.dtype for p in asked.parameters()} == {torch.float64}
    assert torch.equal(asked.norm.weight, model.norm.weight.double())


def test_dtype_of_a_mixed_checkpoint_is_that_of_most_elements(folder: Path):
    change_tensors(folder, model__norm__weight=torch.ones(WIDTH, dtype=torch.float64))
    assert {p.dtype for p in from_pretrained(folder).parameters()} == {torch.float32}


def test_device(folder: Path):
    assert {p.device.type for p in from_pretrained(folder, device="meta").parameters()} == {"meta"}


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_constants_of_old_llamas_are_ignored(name: str, folder: Path):
    before = from_pretrained(folder).state_dict()
    change_tensors(folder, **{name: torch.ones(2)})
    torch.testing.assert_close(from_pretrained(folder).state_dict(), before, rtol=0, atol=0)


def test_gpt2_of_old_has_masks_and_no_prefix(tmp_path: Path):
    """As published: names of the model without a head, and causal masks beside the weights."""
    model = decoder(**GPT2, positions=learned())
    save_pretrained(model, tmp_path)
    path = tmp_path / "model.safetensors"
    stored = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    stored |= {"h.0.attn.bias": torch.ones(1, 1, 4, 4), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(stored, path)
    text = tokens()
    assert torch.equal(from_pretrained(tmp_path)(text), model(text))


def test_rope_in_both_spellings(folder: Path):
    """``rope_theta`` and ``rope_scaling`` of transformers 4, ``type`` at first; ``rope_parameters`` of 5."""
    scaled = {"factor": 2.0, "rope_theta": 700.0}
    change_config(folder, rope_theta="absent", rope_scaling="absent")
    assert from_pretrained(folder).positions.base == 10_000.0
    for options in (
        {"rope_theta": 700.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_theta": 700.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", **scaled}},
    ):
        change_config(folder, **{"rope_theta": "absent", "rope_scaling": "absent", **options})
        positions = from_pretrained(folder).positions
        assert positions.base == 700.0
        assert positions.scaling == LinearScaling(2.0)


def test_windows_where_config_says_nothing(tmp_path: Path):
    """Absent means what transformers takes, null means none; Qwen2 counts layers where it names no kinds."""
    save_pretrained(decoder(window=5), tmp_path / "mistral")
    save_pretrained(decoder(qkv_bias=True), tmp_path / "qwen2")

    def windows(folder: Path, **values: object) -> list[int | None]:
        change_config(folder, **values)
        return [block.attention.window for block in from_pretrained(folder).layers()]

    assert windows(tmp_path / "mistral", sliding_window="absent") == [4096] * 3
    assert windows(tmp_path / "mistral", sliding_window=None) == [None] * 3
    counted = {"use_sliding_window": True, "sliding_window": 5, "layer_types": None}
    assert windows(tmp_path / "qwen2", **counted, max_window_layers=1) == [None, 5, 5]
    assert windows(tmp_path / "qwen2", max_window_layers=0) == [5] * 3
    assert windows(tmp_path / "qwen2", use_sliding_window=False) == [None] * 3


def test_saving_replaces_an_earlier_checkpoint_and_nothing_else(tmp_path: Path):
    first, second = decoder(**LLAMA), decoder(**LLAMA)
    (tmp_path / "tokenizer.json").write_text("{}")
    save_pretrained(first, tmp_path, max_shard_bytes=4_000)
    save_pretrained(second, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    save_pretrained(first, tmp_path, max_shard_bytes=4_000)
    assert not (tmp_path / "model.safetensors").exists()
    torch.testing.assert_close(from_pretrained(tmp_path).state_dict(), first.state_dict(), rtol=0, atol=0)


def test_failed_save_leaves_the_earlier_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch):
    before, model = from_pretrained(folder).state_dict(), decoder(**LLAMA)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("athena_nn._pretrained_files.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(model, folder)
    monkeypatch.undo()
    torch.testing.assert_close(from_pretrained(folder).state_dict(), before, rtol=0, atol=0)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_save_killed_while_files_are_put_in_place_is_no_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Rather than the weights of one model beside the configuration of another."""

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(decoder(**LLAMA), folder)
    with pytest.raises(FileNotFoundError, match=r"must hold config\.json"):
        from_pretrained(folder)


def test_shards_keep_to_their_size(tmp_path: Path):
    save_pretrained(decoder(**LLAMA), tmp_path, max_shard_bytes=4_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = {name: load_file(tmp_path / name) for name in index["weight_map"].values()}
    sizes = [sum(t.nbytes for t in shard.values()) for shard in shards.values()]
    assert len(sizes) > 2
    assert max(sizes) <= 4_000
    assert index["metadata"]["total_size"] == sum(sizes)
    assert {name: file for file, shard in shards.items() for name in shard} == index["weight_map"]


UNSAVEABLE = {
    "alibi": (lambda: decoder(positions=AlibiPositions(4)), "positions that a model type has"),
    "interleaved": (
        lambda: decoder(positions=RotaryPositions(4, layout="interleaved")),
        "interleaved rotary",
    ),
    "partial": (lambda: decoder(positions=RotaryPositions(4, rotary_dim=2)), "heads that turn in part"),
    "ntk": (lambda: decoder(positions=RotaryPositions(4, scaling=NTKScaling(2.0))), "by NTKScaling"),
    "layer-norm": (lambda: decoder(norm="layer"), "norms other than RMSNorm"),
    "gelu": (lambda: decoder(activation="gelu"), "activations other than swiglu"),
    "scale": (lambda: decoder(scale=1.0), "an attention scale"),
    "heads": (lambda: decoder(num_heads=3, head_dim=4), "heads that do not divide the width"),
    "unbounded": (lambda: decoder(max_length=None), "no `max_length`"),
    "post-norm": (lambda: decoder(norm_first=False), "norms after the sum"),
    "qk-norm": (lambda: decoder(qk_norm="rms"), "query and key norms"),
    "embedding-norm": (lambda: decoder(embedding_norm=True), "an embedding norm"),
    "embedding-scale": (lambda: decoder(embedding_scale=4.0), "an embedding scale"),
    "memory": (lambda: decoder(memory_dim=8), "cross-attention"),
    "some-windows": (lambda: with_windows([None, 5, 5]), "biases and windows"),
    "two-windows": (lambda: with_windows([4, 5, 5], qkv_bias=True), "biases and windows"),
    "window-and-biases": (lambda: decoder(window=5, bias=True), "biases and windows"),
    "prepared": (lambda: prepare_for_decoding(decoder()), "save the model that they were prepared from"),
    "gpt2-rms": (
        lambda: decoder(**{**GPT2, "norm": "rms"}, positions=learned()),
        "norms other than LayerNorm",
    ),
    "gpt2-bias": (lambda: decoder(**{**GPT2, "bias": False}, positions=learned()), "without bias"),
    "gpt2-grouped": (lambda: decoder(**GPT2, positions=learned(), num_kv_heads=2), "fewer key-value heads"),
    "gpt2-head-dim": (lambda: decoder(**GPT2, positions=learned(), head_dim=8), "do not add up"),
    "gpt2-window": (lambda: decoder(**GPT2, positions=learned(), window=5), "windows"),
    "gpt2-scale": (lambda: decoder(**GPT2, positions=learned(), scale=0.3), "an attention scale"),
    "gpt2-geglu": (lambda: decoder(**{**GPT2, "activation": "geglu"}, positions=learned()), "activations"),
    "gpt2-max-length": (
        lambda: decoder(**GPT2, positions=learned(), max_length=9),
        "other than its positions",
    ),
}


@pytest.mark.parametrize("name", UNSAVEABLE)
def test_model_that_no_type_expresses_is_not_saved(name: str, tmp_path: Path):
    make, reason = UNSAVEABLE[name]
    with pytest.raises(ValueError, match=reason):
        save_pretrained(make(), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_only_decoders_are_saved(tmp_path: Path):
    encoder = Encoder(VOCABULARY, WIDTH, num_layers=1, num_heads=2, ff_dim=8)
    with pytest.raises(TypeError, match="`model` must be a Decoder; got Encoder"):
        save_pretrained(encoder, tmp_path)


def test_shard_size_must_be_positive(tmp_path: Path):
    with pytest.raises(ValueError, match="`max_shard_bytes` must be at least 1; got 0"):
        save_pretrained(decoder(), tmp_path, max_shard_bytes=0)


def test_missing_folder_and_files(tmp_path: Path, folder: Path):
    with pytest.raises(
        FileNotFoundError, match="`folder` must be a folder on this machine that holds a checkpoint"
    ):
        from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"must hold config\.json"):
        from_pretrained(tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold model\.safetensors or"):
        from_pretrained(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "bloom"}, "must be one of gpt2, llama, mistral, qwen2; got 'bloom'"),
        ({"model_type": "absent"}, "must have `model_type`, a string"),
        ({"hidden_size": "absent"}, "must have `hidden_size`, a whole number from 1 to"),
        ({"hidden_size": "16"}, r"`hidden_size` must be a whole number from 1 to 2\*\*31 - 1; got '16'"),
        ({"hidden_size": 0}, r"`hidden_size` must be a whole number from 1 to 2\*\*31 - 1; got 0"),
        (
            {"num_hidden_layers": True},
            r"`num_hidden_layers` must be a whole number from 1 to 2\*\*31 - 1; got True",
        ),
        ({"attention_bias": 1}, "`attention_bias` must be true or false; got 1"),
        ({"hidden_act": "gelu"}, "`hidden_act` must be 'silu' for a llama; got 'gelu'"),
        ({"partial_rotary_factor": 0.5}, "`partial_rotary_factor` must be 1.0"),
        ({"quantization_config": {"bits": 4}}, "`quantization_config` is not supported"),
        ({"num_key_value_heads": 3}, "`num_kv_heads` must divide `num_heads` = 4; got 3"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "one of default, linear, llama3, yarn; got 'dyn",
        ),
        ({"rope_scaling": {"rope_type": "linear"}}, "must have `factor`, a number"),
        ({"rope_scaling": {"full_attention": {}}}, "must be alike in all layers"),
        ({"rope_scaling": 2.0}, "must be alike in all layers; got 2.0"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "layer_types": ["full_attention", "chunked"]},
            "`layer_types` must name full_attention or sliding_attention for each of 3 layers",
        ),
        ({"model_type": "gpt2"}, "must have `n_embd`"),
        (
            {"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True},
            "must be False for a gpt2; got True",
        ),
        ({"model_type": "gpt2", "activation_function": "mish"}, "must be one of gelu_new, .*; got 'mish'"),
    ],
)
def test_config_that_is_not_supported(values: dict[str, object], message: str, folder: Path):
    change_config(folder, **values)
    with pytest.raises(ValueError, match=message):
        from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON that can be read: maximum recursion"),
        ("[1]", "must hold a JSON object; got list"),
    ],
)
def test_config_that_is_no_json_object(text: str, message: str, folder: Path):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        from_pretrained(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 4}, r"`num_hidden_layers` must be the number of layers .*, 3; got 4\."),
        ({"num_hidden_layers": 10**9}, r"among the tensors, 3; got 1000000000\."),
        ({"vocab_size": 10**30}, r"`vocab_size` must be a whole number from 1 to 2\*\*31 - 1; got 10{30}\."),
        (
            {"vocab_size": 2**31 - 1, "hidden_size": 2**31 - 1, "head_dim": 4},
            r"a model that cannot be built: .*overflow",
        ),
    ],
)
def test_sizes_beyond_all_bounds_are_refused_at_once(values: dict[str, object], message: str, folder: Path):
    """Building so many layers would not end, and torch's own errors of such tensors have a C++ stack."""
    change_config(folder, **values)
    with pytest.raises(ValueError, match=message) as caught:
        from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_layers_of_a_gpt2_are_counted_without_their_prefix_too(tmp_path: Path):
    save_pretrained(decoder(**GPT2, positions=learned()), tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({name.removeprefix("transformer."): one for name, one in load_file(path).items()}, path)
    assert len(from_pretrained(tmp_path).blocks) == 3
    change_config(tmp_path, n_layer=10**9)
    with pytest.raises(ValueError, match="`n_layer` must be the number of layers among the tensors, 3"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.float8_e4m3fn, "float32"])
def test_other_dtypes_are_refused(dtype: torch.dtype, folder: Path):
    with pytest.raises(
        ValueError, match=rf"`dtype` must be None or one of torch\.float64, .*; got {dtype}\.$"
    ):
        from_pretrained(folder, dtype=dtype)


def test_tensors_of_other_shapes_are_listed_in_the_model_s_order(folder: Path):
    wrong = [
        f"model.layers.{i}.{kind}_layernorm.weight" for i in range(3) for kind in ("input", "post_attention")
    ]
    change_tensors(folder, **{name: torch.ones(2) for name in reversed(wrong)})
    with pytest.raises(ValueError, match="do not fit") as caught:
        from_pretrained(folder)
    assert [part.split()[0] for part in str(caught.value).partition("llama: ")[2].split("; ")] == wrong


def test_tensors_that_do_not_fit_are_all_listed(folder: Path):
    change_tensors(
        folder,
        model__norm__weight=None,
        model__layers__1__mlp__down_proj__weight=None,
        model__layers__0__self_attn__q_proj__bias=torch.zeros(16),
        model__layers__2__self_attn__k_proj__weight=torch.zeros(16, 16),
        model__layers__2__input_layernorm__weight=torch.ones(16, dtype=torch.int8),
    )
    with pytest.raises(ValueError, match="do not fit") as caught:
        from_pretrained(folder)
    for problem in (
        "model.norm.weight is missing",
        "model.layers.1.mlp.down_proj.weight is missing",
        "model.layers.0.self_attn.q_proj.bias is unexpected",
        "model.layers.2.self_attn.k_proj.weight must have shape (8, 16), got (16, 16)",
        "model.layers.2.input_layernorm.weight must be one of F64, F32, F16, BF16, got I8",
    ):
        assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(";") == 4


@pytest.mark.parametrize("cut", [4, 100, -1])
def test_cut_file(cut: int, folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        from_pretrained(folder)


@pytest.mark.parametrize("name", ["../llama/model.safetensors", "/etc/passwd", "..", "", "a\\b", "sub/file"])
def test_index_may_not_lead_out_of_the_folder(name: str, folder: Path):
    (folder / "model.safetensors").rename(folder / "kept.safetensors")
    index = {"weight_map": {"model.norm.weight": name, "model.embed_tokens.weight": "kept.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="must name files of its own folder"):
        from_pretrained(folder)


def test_index_with_missing_shard_or_tensor(folder: Path):
    (folder / "model.safetensors").rename(folder / "kept.safetensors")
    names = load_file(folder / "kept.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {**dict.fromkeys(names, "kept.safetensors"), "x": "lost"}}))
    with pytest.raises(FileNotFoundError, match="names files that are missing: lost"):
        from_pretrained(folder)
    save_file({"y": torch.ones(1)}, folder / "other.safetensors")
    first, *others = names
    places = dict.fromkeys(others, "kept.safetensors")
    path.write_text(json.dumps({"weight_map": {**places, first: "other.safetensors"}}))
    with pytest.raises(ValueError, match=f"{first} is missing; y is unexpected"):
        from_pretrained(folder)
    path.write_text("{}")
    with pytest.raises(ValueError, match="must hold a `weight_map` from tensors to files"):
        from_pretrained(folder)


def test_a_tensor_of_a_shard_that_the_index_does_not_name_counts(folder: Path):
    before = from_pretrained(folder).state_dict()
    (folder / "model.safetensors").rename(folder / "kept.safetensors")
    stored = load_file(folder / "kept.safetensors")
    index = {"weight_map": dict.fromkeys(list(stored)[1:], "kept.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    torch.testing.assert_close(from_pretrained(folder).state_dict(), before, rtol=0, atol=0)
    save_file({**stored, "adapter": torch.ones(1)}, folder / "kept.safetensors")
    with pytest.raises(ValueError, match="adapter is unexpected"):
        from_pretrained(folder)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", None])
def test_the_command_converts_nested_states_and_any_strides(wrapper: str | None, folder: Path):
    before = from_pretrained(folder).state_dict()
    state = {k: v.t().contiguous().t() for k, v in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    torch.save({wrapper: state, "epoch": 3} if wrapper else state | {"epoch": 3}, folder / "model.pt")
    with pytest.raises(ValueError, match="Convert them there: ") as caught:
        from_pretrained(folder)
    assert "\n" not in str(caught.value)
    _, option, program = shlex.split(str(caught.value).partition("Convert them there: ")[2])
    subprocess.run([sys.executable, option, program], cwd=folder, check=True)
    torch.testing.assert_close(from_pretrained(folder).state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "names", [["pytorch_model.bin"], ["pytorch_model-1.bin", "pytorch_model-2.bin"], ["a.ckpt"]]
)
def test_pickle_is_refused_with_a_command_that_converts_it(names: list[str], folder: Path):
    """The command is run, and what it leaves is loaded."""
    before = from_pretrained(folder).state_dict()
    stored = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    for i, name in enumerate(names):
        torch.save(dict(stored[i :: len(names)]), folder / name)
    with pytest.raises(ValueError, match=r"holds pickles .* Convert them there: ") as caught:
        from_pretrained(folder)
    _, option, program = shlex.split(str(caught.value).partition("Convert them there: ")[2])
    subprocess.run([sys.executable, option, program], cwd=folder, check=True)
    torch.testing.assert_close(from_pretrained(folder).state_dict(), before, rtol=0, atol=0)
