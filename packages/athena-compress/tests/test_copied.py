"""Models that are not worked on as they are: each says why, in one line, wherever a copy is made."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from athena_compress import (
    QAT,
    Pruner,
    calibrate,
    dependencies,
    fold_batch_norm,
    quantize,
    report,
    sensitivity,
    smooth,
    split_attention,
)
from athena_compress._copied import copied

X = torch.linspace(-1, 1, 24).view(3, 8)


def _pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def _compiled_inside() -> nn.Module:
    inner: nn.Module = torch.compile(nn.Linear(8, 4), backend="eager")  # pyright: ignore[reportAssignmentType]
    return nn.Sequential(inner, nn.ReLU())


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "text": (lambda: "model", "`model` must be a torch.nn.Module; got 'model'"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4)), "`model`: `0` must know its sizes; got LazyLinear"),
    "lazy norm": (lambda: nn.Sequential(nn.Linear(8, 4), nn.LazyBatchNorm1d()), "`1` must know its sizes"),
    "compiled": (_compiled_inside, "`model`: `0` must not be what torch.compile returned; .*`_orig_mod`"),
    "pruned": (_pruned, "`model`: `0` must hold no computed tensors; got `weight`.*prune.remove"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize(
    "work", [copied, quantize, fold_batch_norm, split_attention, QAT, lambda model: calibrate(model, [X])]
)
def test_what_cannot_be_copied_says_so(case: str, work: Callable[[object], object]) -> None:
    make, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        work(make())


def test_weights_on_the_meta_device_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"`model` must hold its weights; got `0.weight` on the meta device"):
        quantize(nn.Sequential(nn.Linear(8, 4, device="meta")))


@pytest.mark.filterwarnings("ignore:.*spectral_norm.* is deprecated")
@pytest.mark.parametrize("hook", ["before", "after", "spectral"])
def test_layers_with_hooks_stay_in_float(hook: str) -> None:
    # a hook on a layer that is replaced would be lost, and a weight that one computes may be stale
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    if hook == "before":
        model[0].register_forward_pre_hook(lambda _, inputs: (10 * inputs[0],))
    elif hook == "after":
        model[0].register_forward_hook(lambda *run: torch.mul(run[-1], 10))
    else:
        spectral_norm(model[0])
    with pytest.warns(UserWarning, match="`0`: it has hooks"):
        small = quantize(model)
    with pytest.warns(UserWarning, match="`0`: it has hooks"):
        static = quantize(calibrate(model, [X]), "int8-static")
    with pytest.warns(UserWarning, match="`0`: it has hooks"):
        qat = QAT(model).train()
    qat(X)
    if hook == "spectral":
        with pytest.raises(ValueError, match=r"`0` must hold no computed tensors; .*torch.no_grad\(\)"):
            qat.convert()
        with torch.no_grad():
            qat.eval()(X)
    # in training mode a spectral norm iterates on
    for made, whole in ((small, model), (static, model), (qat.convert(), qat.eval())):
        assert (made(X) - whole(X)).norm() < 0.03 * whole(X).norm()


def test_a_parametrized_layer_stays_in_float_and_is_named() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 2))
    with pytest.warns(UserWarning, match="`0`: it is parametrized"):
        quantize(model)
    with pytest.raises(ValueError, match="it is parametrized"):
        quantize(model[0])


def test_an_attention_with_hooks_stays_whole() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    model.register_forward_hook(lambda _, __, output: (10 * output[0], output[1]))
    x = torch.randn(2, 3, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = quantize(model)
    expected: Tensor = model(x, x, x)[0]
    assert (small(x, x, x)[0] - expected).norm() < 0.03 * expected.norm()
    with pytest.raises(ValueError, match="must have no hooks and no parametrizations"):
        split_attention(model)


@pytest.mark.parametrize("batches", [X, {"input": X}, "text", 5, None])
def test_one_batch_is_not_taken_for_several(batches: object) -> None:
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 2))
    for work in (calibrate, smooth):
        with pytest.raises(ValueError, match="`batches` must be several batches"):
            work(model, batches)  # pyright: ignore[reportArgumentType]
    if batches is not None:
        with pytest.raises(ValueError, match="`batches` must be several batches"):
            sensitivity(model, batches)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": 5}, "quantization-scheme: must be a name, or one that was built; got 5"),
        ({"include": None}, "patterns must be a string or several; got None"),
        ({"skip": [0]}, r"patterns must be a string or several; got \[0\]"),
        ({"overrides": ["0"]}, "`overrides` must map patterns"),
        ({"scheme": "int8-weight-only", "bits": 2.5}, r"`bits` must lie in \[2, 8\], and be whole; got 2.5"),
        ({"scheme": "int4-weight-only", "group_size": 4.5}, "`group_size` must be at least 1, and whole"),
    ],
)
def test_odd_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(nn.Sequential(nn.Linear(8, 2)), **options)  # pyright: ignore[reportArgumentType]


def test_integers_are_no_inputs() -> None:
    for layer, x in ((nn.Linear(8, 2), X), (nn.Conv2d(2, 2, 1), torch.ones(1, 2, 4, 4))):
        with pytest.raises(ValueError, match=r"`input` must hold floats; got torch.int64"):
            quantize(layer)(x.long())


def test_a_calibrated_model_is_not_calibrated_again() -> None:
    with pytest.raises(ValueError, match="got a Calibrated"):
        calibrate(calibrate(nn.Linear(8, 2), [X]), [X])


@pytest.mark.parametrize("case", ["text", "lazy"])
@pytest.mark.parametrize(
    "work",
    [lambda model: Pruner(model, schedule=0.5), lambda model: dependencies(model, X), report],
)
def test_what_has_no_sizes_is_neither_pruned_nor_reported(
    case: str, work: Callable[[object], object]
) -> None:
    make, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        work(make())
