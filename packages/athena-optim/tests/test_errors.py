"""Bad input to every optimizer: one line that says what, and nothing changed."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from cases import (
    CASES,
    MATRIX_SHAPES,
    OPTIMIZERS,
    WRAPPERS,
    advance,
    assert_same,
    draw_gradients,
    gradient_closure,
    make_parameters,
    snapshot,
)
from torch import nn

from athena_optim import SAM, AdamW, CentralizedGradients, Lamb, Lion, Lookahead

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_optimizer = pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.name)


def one_line(caught: pytest.ExceptionInfo) -> str:
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


@every_optimizer
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1.0),
        ("lr", math.nan),
        ("lr", math.inf),
        ("weight_decay", -0.1),
        ("weight_decay", math.nan),
        ("eps", -1e-8),
        ("eps", math.nan),
        ("betas", (1.0, 0.9)),
        ("betas", (-0.1, 0.9)),
        ("betas", (0.9, 1.0)),
        ("betas", (0.9, math.nan)),
    ],
)
def test_options_outside_their_ranges(case, name, value):
    """In the constructor and in a group of their own; what was there stays."""
    params = make_parameters(shapes=MATRIX_SHAPES)
    optimizer = case.make(params)
    if name not in optimizer.param_groups[0]:
        pytest.skip(f"it has no {name}")
    taken = name if case.name != "muon" or name != "betas" else "adamw_betas"
    with pytest.raises(ValueError, match=name) as caught:
        case.make(params, **{taken: value})
    one_line(caught)
    with pytest.raises(ValueError, match=name) as caught:
        case.make([{"params": params, name: value}])
    one_line(caught)
    with pytest.raises(ValueError, match=name) as caught:
        optimizer.add_param_group({"params": make_parameters(shapes=[(2, 2)]), name: value})
    one_line(caught)
    assert len(optimizer.param_groups) == 1


@every
def test_no_parameters(case):
    with pytest.raises(ValueError, match="empty parameter list") as caught:
        case.make([])
    one_line(caught)


@every
def test_one_tensor_instead_of_a_list(case):
    with pytest.raises(TypeError) as caught:
        case.make(nn.Parameter(torch.ones(2, 2)))
    one_line(caught)


@every_optimizer
def test_the_same_parameter_twice(case):
    """In one group, in two, and by a second `add_param_group`."""
    param, other = make_parameters(shapes=[(2, 2), (3, 2)])
    groups = [
        [param, other, param],
        [("a", param), ("b", param)],
        [{"params": [param, param]}],
        [{"params": [param]}, {"params": [other, param]}],
    ]
    for params in groups:
        with pytest.raises(ValueError, match=r"twice|more than one") as caught:
            case.make(params)
        one_line(caught)


@every
def test_sparse_gradients(case):
    """Of an embedding with `sparse=True`: refused before anything changes."""
    layer = nn.Embedding(5, 3, sparse=True)
    dense = nn.Parameter(torch.ones(2, 2))
    params = [dense, layer.weight]
    optimizer = case.make(params)
    before = snapshot(optimizer, params)

    def closure():
        optimizer.zero_grad()
        loss = layer(torch.tensor([1, 3])).sum() + dense.sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="sparse") as caught:
        optimizer.step(closure)
    one_line(caught)
    assert_same(snapshot(optimizer, params), before)


class Moved(nn.Parameter):
    """Its gradient stayed behind on another device, which torch itself hardly lets happen."""

    grad = property(lambda self: torch.ones(2, 2, device="meta"), lambda self, value: None)


@every
def test_a_gradient_on_another_device(case):
    param = Moved(torch.ones(2, 2))
    optimizer = case.make([param])
    with pytest.raises(RuntimeError, match="device") as caught:
        optimizer.step(lambda: torch.zeros(()))
    one_line(caught)
    assert torch.equal(param.detach(), torch.ones(2, 2))


@every
@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this torch has one dtype for both")
def test_a_gradient_of_another_dtype(case):
    param = nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))
    param.grad_dtype = torch.float32
    param.grad = torch.ones(2, 2)
    optimizer = case.make([param])
    before = snapshot(optimizer, [param])
    with pytest.raises(RuntimeError, match="dtype") as caught:
        optimizer.step(lambda: torch.zeros(()))
    one_line(caught)
    assert_same(snapshot(optimizer, [param]), before)


@every_optimizer
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_gradients_that_are_not_finite(case, value, max_norm):
    """raise, skip: nothing changes, and nothing is counted; zero: a step of zero gradients."""
    options = {} if max_norm is None else {"max_norm": max_norm}
    if max_norm is not None and case.make not in (AdamW, Lamb):
        pytest.skip("it does not clip")
    for policy in ("raise", "skip", "zero"):
        params, twins = make_parameters(), make_parameters()
        optimizer, twin = (case.make(each, nonfinite=policy, **options) for each in (params, twins))
        advance(optimizer, params, range(2))
        advance(twin, twins, range(2))
        assert not optimizer.skipped
        gradients = draw_gradients(params)
        gradients[0][2, 1] = value
        if policy == "zero":
            optimizer.step(gradient_closure(params, gradients))
            twin.step(gradient_closure(twins, [torch.zeros_like(p) for p in twins]))
            assert not any(g.any() for g in gradients)
        elif policy == "skip":
            optimizer.step(gradient_closure(params, gradients))
            assert optimizer.skipped
        else:
            with pytest.raises(RuntimeError, match="finite") as caught:
                optimizer.step(gradient_closure(params, gradients))
            one_line(caught)
        assert_same(snapshot(optimizer, params), snapshot(twin, twins))
        advance(optimizer, params, [2])
        advance(twin, twins, [2])
        assert not optimizer.skipped
        assert_same(snapshot(optimizer, params), snapshot(twin, twins))


@pytest.mark.parametrize("wrap", [Lookahead, CentralizedGradients, SAM])
def test_a_skipped_step_counts_in_no_wrapper(wrap):
    """Pitfall 11: neither Lookahead's k nor the inner step moves; the wrapper says that it was skipped."""
    options = {"k": 2} if wrap is Lookahead else {}
    params, twins = make_parameters(), make_parameters()
    optimizer, twin = (wrap(Lion(each, nonfinite="skip"), **options) for each in (params, twins))
    for step in range(6):
        if step % 3 == 1:
            gradients = draw_gradients(params)
            gradients[1][0] = math.nan
            if wrap is SAM:  # the second gradient, where the parameters are not their own
                calls = iter([draw_gradients(params), gradients])
                optimizer.step(lambda: gradient_closure(params, next(calls))())  # noqa: B023
            else:
                optimizer.step(gradient_closure(params, gradients))
            assert optimizer.skipped
        advance(optimizer, params, [step])
        advance(twin, twins, [step])
        assert not optimizer.skipped
    assert_same(snapshot(optimizer, params), snapshot(twin, twins))


@every_optimizer
def test_an_unknown_policy(case):
    with pytest.raises(ValueError, match="`nonfinite` must be") as caught:
        case.make(make_parameters(), nonfinite="ignore")
    one_line(caught)


@pytest.mark.parametrize("case", [case for case in WRAPPERS if case.closure], ids=lambda case: case.name)
def test_a_missing_closure(case):
    params = make_parameters()
    optimizer = case.make(params)
    for param, gradient in zip(params, draw_gradients(params), strict=True):
        param.grad = gradient
    before = snapshot(optimizer, params)
    with pytest.raises(RuntimeError, match="`closure`") as caught:
        optimizer.step()
    one_line(caught)
    assert_same(snapshot(optimizer, params), before)


@pytest.mark.parametrize("wrap", [Lookahead, CentralizedGradients, SAM])
def test_wrapping_what_is_no_optimizer(wrap):
    with pytest.raises(TypeError, match="`optimizer` must be") as caught:
        wrap(make_parameters())
    one_line(caught)


STRANGERS = {
    "sgd": lambda params: torch.optim.SGD(params, momentum=0.9),
    "adagrad": torch.optim.Adagrad,
    **{case.name: case.make for case in OPTIMIZERS if case.name != "adamw-float32"},
}
# These two differ in configuration only, and so does torch's.
ALIKE = [("adamw-float32", "adamw")]


@every
def test_a_state_dict_of_another_optimizer(case):
    """The message names what differs; groups, state and parameters stay as they were."""
    params = make_parameters()
    optimizer = case.make(params)
    advance(optimizer, params, range(2))
    before, groups = snapshot(optimizer, params), deepcopy(optimizer.state_dict()["param_groups"])
    for name, make in STRANGERS.items():
        if name in case.name or (case.name, name) in ALIKE:
            continue
        if case in WRAPPERS and name in ("sgd", "adagrad", "adamw") and "lookahead" not in case.name:
            continue  # it depends on the optimizer inside, which the other tests ask
        strangers = make_parameters()
        stranger = make(strangers)
        advance(stranger, strangers, range(2))
        with pytest.raises(ValueError, match="`state_dict`") as caught:
            optimizer.load_state_dict(stranger.state_dict())
        one_line(caught)
        assert_same(snapshot(optimizer, params), before)
        assert optimizer.state_dict()["param_groups"] == groups


@every_optimizer
def test_a_state_dict_of_another_model(case):
    params = make_parameters()
    optimizer = case.make(params)
    advance(optimizer, params, range(2))
    before = snapshot(optimizer, params)
    for shapes in ([(7, 5), (5,)], [(6, 5), (5,), (3, 2, 4), (1,), (), (0,), (2, 65)]):
        others = make_parameters(shapes=shapes)
        other = case.make(others)
        advance(other, others, range(2))
        with pytest.raises(ValueError, match="`state_dict`") as caught:
            optimizer.load_state_dict(other.state_dict())
        assert "another model" in one_line(caught)
        assert_same(snapshot(optimizer, params), before)


@every_optimizer
def test_a_state_dict_of_another_version(case):
    """One that lacks an option or has state of another name: it is said which."""
    params = make_parameters(shapes=MATRIX_SHAPES)
    optimizer = case.make(params)
    advance(optimizer, params, range(2))
    before = snapshot(optimizer, params)
    lacking, strange = deepcopy(optimizer.state_dict()), deepcopy(optimizer.state_dict())
    del lacking["param_groups"][0]["weight_decay"]
    strange["state"][0]["velocity"] = torch.zeros(7, 5)
    for state, name in ((lacking, "weight_decay"), (strange, "velocity"), ({"model": {}}, "model")):
        with pytest.raises(ValueError, match=name) as caught:
            optimizer.load_state_dict(state)
        one_line(caught)
        assert_same(snapshot(optimizer, params), before)


@every_optimizer
def test_a_model_that_was_moved_changes_nothing(case):
    """The state has another dtype: one line, before any parameter steps, and what to do about it."""
    params = [nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(2, 2))]
    optimizer = case.make(params)
    advance(optimizer, params, range(1))
    params[1].data = params[1].data.double()
    for param in params:
        param.grad = torch.ones_like(param)
    before = snapshot(optimizer, params)
    with pytest.raises(RuntimeError, match="state must have its parameter's dtype and device") as caught:
        optimizer.step()
    one_line(caught)
    assert_same(snapshot(optimizer, params), before)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()


@every_optimizer
def test_cut_or_mistyped_state_dicts_are_refused(case):
    params = [nn.Parameter(torch.ones(3, 3))]
    optimizer = case.make(params)
    advance(optimizer, params, range(1))
    good = optimizer.state_dict()
    text_keys = {**good, "state": {str(key): value for key, value in good["state"].items()}}
    bad_rate = {**good, "param_groups": [{**group, "lr": -1.0} for group in good["param_groups"]]}
    texts = {"got the key '0'": text_keys, "`lr` must be finite and at least 0": bad_rate}
    if "step" in good["state"][0]:
        cut = {name: value for name, value in good["state"][0].items() if name != "step"}
        texts["lacks step"] = {**good, "state": {0: cut}}
    before = snapshot(optimizer, params)
    for text, state_dict in texts.items():
        with pytest.raises(ValueError, match=text):
            optimizer.load_state_dict(state_dict)
        assert_same(snapshot(optimizer, params), before)
