"""What a module may hold, what is refused with its place, and whose code a file may name."""

from __future__ import annotations

import functools
import json
import math
import operator
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import user_models
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from athena_compress import Grid, load, save
from athena_compress._saving_describe import _check_module

TRUST = ("user_models",)


def through(value: object, folder: Path, trust: tuple[str, ...] = ()) -> object:
    save(user_models.Holder(value=value), folder)
    return load(folder, trust=trust).value


VALUES = [
    True,
    3,
    2**80,
    -0.0,
    1e-320,
    math.inf,
    -math.inf,
    "ü\n\ud800",
    None,
    (1, (2, [3])),
    [1, [], {}],
    {"a": (1,), "dtype": "float32", "tensor": 0},
    {1: "a", (2, None): "b", torch.float32: "c"},
    set(),
    {1, "b", (2.5, None)},
    frozenset({torch.float8_e4m3fn}),
    torch.bfloat16,
    torch.device("cuda", 1),
    torch.device("meta"),
    torch.Size([2, 0]),
    torch.channels_last,
    torch.strided,
    user_models.Mode.SLOW,
    Grid(4, group_size=32),
    user_models.Options(3, inner=user_models.Options(4, float("-inf")), names=("a",)),
    user_models.Slotted(0.5, [1]),
    F.relu,
    F.gelu,
    F.max_pool2d,
    F.scaled_dot_product_attention,
    torch.sigmoid,
    torch.special.erf,
    torch.linalg.norm,
    torch.einsum,
    math.sqrt,
    operator.add,
    nn.LayerNorm,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values(value, tmp_path):
    found = through(value, tmp_path)
    assert type(found) is type(value)
    assert found == value
    if not isinstance(value, set):  # whose order means nothing
        assert repr(found) == repr(value)  # 0.0 equals -0.0


def test_nan(tmp_path):
    found = through([float("nan")], tmp_path)
    assert math.isnan(found[0])
    text = (tmp_path / "athena_compress.json").read_text()
    assert "NaN" not in text  # which JSON has not


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | st.dictionaries(st.integers() | st.tuples(st.text()), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


@given(plain)
def test_drawn_values(tmp_path_factory, value):
    found = through(value, tmp_path_factory.mktemp("model"))
    assert found == value
    assert repr(found) == repr(value)


def test_objects_are_shared_as_they_were(tmp_path):
    options = user_models.Options(3)
    plain = user_models.Plain(4)
    model = user_models.Holder(
        options=options, inner=user_models.Holder(options=options, plain=[plain, plain])
    )
    save(model, tmp_path)
    with pytest.raises(
        ValueError, match=r'`user_models:Plain` is an object that is no dataclass.*trust=\("user_m'
    ):
        load(tmp_path)
    again = load(tmp_path, trust=TRUST)
    assert again.options == options
    assert again.options is again.inner.options
    assert again.inner.plain[0] is again.inner.plain[1]
    assert again.inner.plain[0].again is again.inner.plain[0]
    assert again.inner.plain[0].width == 4


def test_distributions_of_torch(tmp_path):
    found = through(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), tmp_path)
    assert found.sample().shape == (2,)


def test_functions_of_ones_own_need_trust(tmp_path):
    with pytest.raises(ValueError, match=r'`user_models:twice` is a function.*trust=\("user_models",\)'):
        through(user_models.twice, tmp_path)
    assert load(tmp_path, trust="user_models").value is user_models.twice


class Local(nn.Module):
    pass


def test_a_class_of_a_module_that_is_not_imported(tmp_path, monkeypatch):
    save(user_models.Holder(inner=Local()), tmp_path)
    assert type(load(tmp_path).inner) is Local
    name = Local.__module__
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(
        ValueError, match=rf"{name}:Local` is of a module that is not imported.*`import {name}`"
    ):
        load(tmp_path)


def test_a_trusted_package_that_is_not_installed(tmp_path):
    save(user_models.Holder(), tmp_path)
    edit(tmp_path, "user_models:Holder", "no_such_package.models:Holder")
    with pytest.raises(ValueError, match=r"no_such_package:Holder|No module named 'no_such_package'"):
        load(tmp_path, trust=("no_such_package",))


def test_main_is_found_where_it_is(tmp_path, monkeypatch):
    kind = type("Own", (nn.Linear,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Own", kind, raising=False)
    save(kind(2, 2), tmp_path)
    assert type(load(tmp_path)) is kind
    monkeypatch.delattr(sys.modules["__main__"], "Own")
    with pytest.raises(
        ValueError, match=r"`__main__:Own` must be a subclass of nn.Module of the module __main__"
    ):
        load(tmp_path)


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "athena_compress.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "name",
    [
        *("os:system", "builtins:eval", "torch:load", "torch.hub:load", "torch:from_file", "torch:compile"),
        *("torch.utils.cpp_extension:load", "torch.serialization:load", "importlib:import_module"),
        *(
            "user_models:twice",
            "torch.nn.modules.module:register_module_forward_hook",
            "math:__loader__",
            "torch.nn.functional:__builtins__.eval",
            "torch:nn.Linear",
        ),
        *("math:sqrt.__call__", "torch.nn.functional:torch.load", ":", "", "math:", "math:no_such"),
    ],
)
def test_functions_that_a_file_may_not_name(name, tmp_path):
    save(user_models.Holder(value=math.sqrt), tmp_path)
    edit(tmp_path, '"math:sqrt"', json.dumps(name))
    with pytest.raises(ValueError, match=r"must be a function of the module|must be trusted|not imported"):
        load(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["subprocess:Popen", "builtins:dict", "math:sqrt", "user_models:Mode", "torch:Tensor", "os:system"],
)
def test_classes_that_a_file_may_not_name(name, tmp_path):
    save(user_models.Holder(), tmp_path)
    edit(tmp_path, "user_models:Holder", name)
    with pytest.raises(ValueError, match=r"must be a subclass of nn\.Module"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["subprocess:Popen", "builtins:dict", "user_models:Holder", "math:sqrt"])
def test_enums_that_a_file_may_not_name(name, tmp_path):
    save(user_models.Holder(value=user_models.Mode.FAST), tmp_path)
    edit(tmp_path, "user_models:Mode", name)
    with pytest.raises(ValueError, match=r"must be an enum"):
        load(tmp_path)


def test_objects_that_a_file_may_not_name(tmp_path):
    for name in (
        "subprocess:Popen",
        "user_models:Plain",
        "user_models:Options",
        "tempfile:TemporaryDirectory",
    ):
        save(user_models.Holder(value=user_models.Slotted(1.0)), tmp_path)
        edit(tmp_path, "user_models:Slotted", name)
        with pytest.raises(ValueError, match=r"must be trusted"):
            load(tmp_path)


def test_hooks_cannot_be_put_in(tmp_path):
    save(user_models.Holder(value=math.sqrt), tmp_path)
    edit(tmp_path, '"value"', '"_forward_hooks"')
    with pytest.raises(ValueError, match=r"must leave _forward_hooks to nn.Module"):
        load(tmp_path)


def looped() -> list:
    one: list = []
    one.append(one)
    return one


UNSAVED = {
    "lambda": (lambda x: x, "is a lambda or a function inside of another.*Use a function"),
    "partial": (functools.partial(F.gelu, approximate="tanh"), "functools.partial.*nn.Module"),
    "method": (nn.Linear(1, 1).forward, "is a bound method.*Look `forward` up"),
    "own-method": (user_models.Plain(1).__init__, "is a "),
    "generator": (torch.Generator(), "Generator, which has no description.*`_not_saved`"),
    "complex": (1j, "complex, which has no description"),
    "bytes": (b"a", "bytes, which"),
    "ordered": (OrderedDict(a=1), "OrderedDict, which"),
    "module": (math, "is a builtins.module"),
    "loop": (looped(), "contains itself"),
    "deep": ({"a": [1, (lambda x: x,)]}, r"`value\['a'\]\[1\]\[0\]` is a lambda"),
    "load": (torch.load, "of torch's functions only its mathematics is saved"),
    "object-key": ({user_models.Options(1): 1}, "an object as a key"),
    "sparse": (torch.eye(2).to_sparse(), "must be a plain dense tensor.*sparse_coo"),
    "range": (range(3), "builtins.range, which"),
    "float-subclass": (type("F", (float,), {})(1.0), "which has no description"),
}


@pytest.mark.parametrize("name", UNSAVED)
def test_what_cannot_be_described(name, tmp_path):
    value, message = UNSAVED[name]
    with pytest.raises(ValueError, match=rf"^`model`: `value.*{message}" if name != "deep" else message):
        save(user_models.Holder(value=value), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_open_file(tmp_path):
    with (
        (tmp_path / "log").open("w") as file,
        pytest.raises(ValueError, match=r"`inner.log` is a _io.TextIOWrapper"),
    ):
        save(user_models.Holder(inner=user_models.Holder(log=file)), tmp_path / "model")


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_forward_hook(lambda *_: None)
    return model


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    prune.random_unstructured(model[0], "weight", 0.5)
    return model


def backward_hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_full_backward_pre_hook(lambda *_: None)
    return model


def defined_inside() -> nn.Module:
    class Inside(nn.Module):
        pass

    return nn.Sequential(Inside())


MODELS = {
    "hook": (hooked, r"`0` has hooks \(_forward_hooks\).*handle.remove\(\)"),
    "backward": (backward_hooked, r"`0` has hooks \(_backward_pre_hooks\)"),
    "pruned": (pruned, r"torch\.nn\.utils\.prune\.remove"),
    "parametrized": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2))),
        "`0` has parametrizations.*remove_parametrizations",
    ),
    "inside": (defined_inside, "`0` has the class .*Inside, which no import finds.*top level"),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(2)),
        "`0.*(has no values yet. Run the model once|has hooks)",
    ),
    "compiled": (lambda: torch.compile(nn.Linear(1, 1), backend="eager"), "Save its `_orig_mod`"),
    "script": (lambda: nn.Sequential(torch.jit.trace(nn.Linear(1, 1), torch.ones(1))), "`0` is TorchScript"),
    "traced": (lambda: torch.fx.symbolic_trace(nn.Linear(1, 1)), "GraphModule.*no import finds"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_described(name, tmp_path):
    make, message = MODELS[name]
    with pytest.raises(ValueError, match=message):
        save(make(), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_one_that_never_called_the_constructor():
    with pytest.raises(ValueError, match=r"`a.b` has not called nn.Module's __init__"):
        _check_module(object.__new__(user_models.ResNet), "a.b")
