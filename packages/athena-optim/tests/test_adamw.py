"""AdamW against torch's (bit for bit), a plain float64 reference, and the contract of `torch.optim`."""

from __future__ import annotations

import io
import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from athena_optim import AdamW, Lamb, clip_gradients, warmup_cosine


def make_parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (5,), (3, 2, 4), (1,), (0,), (2, 65)]
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def give_gradients(parameters: list[nn.Parameter], step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(step + 1)
    for parameter in parameters:
        parameter.grad = (scale * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)


def plain_adamw(
    theta: list[float],
    gradients: list[list[float] | None],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    max_norm: float | None,
) -> list[float]:
    """Algorithm 2 of arXiv:1711.05101 on one vector, a number at a time; None is a missing gradient."""
    m, v, t = [0.0] * len(theta), [0.0] * len(theta), 0
    for gradient in gradients:
        if gradient is None:
            continue
        if max_norm is not None:
            norm = math.sqrt(sum(g * g for g in gradient))
            gradient = [g * min(1.0, max_norm / (norm + 1e-6)) for g in gradient]
        t += 1
        for i, g in enumerate(gradient):
            m[i] = betas[0] * m[i] + (1 - betas[0]) * g
            v[i] = betas[1] * v[i] + (1 - betas[1]) * g * g
            m_hat, v_hat = m[i] / (1 - betas[0] ** t), v[i] / (1 - betas[1] ** t)
            theta[i] = (1 - lr * weight_decay) * theta[i] - lr * m_hat / (math.sqrt(v_hat) + eps)
    return theta


@pytest.mark.parametrize("max_norm", [None, 0.5, 1e9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("foreach", [None, True])
def test_fifty_steps_equal_plain_python(max_norm, weight_decay, foreach):
    """Zero and missing gradients among them: each parameter counts its own steps (pitfall 6)."""
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    options = {
        "lr": 0.05,
        "betas": (0.8, 0.95),
        "eps": 1e-8,
        "weight_decay": weight_decay,
        "max_norm": max_norm,
    }
    optimizer = AdamW([parameter], foreach=foreach, **options)
    draws = torch.randn(50, 3, dtype=torch.float64)
    gradients = [
        None if step % 7 == 3 else (0.0 if step % 7 == 5 else 1.0) * draws[step] for step in range(50)
    ]
    for gradient in gradients:
        parameter.grad = None if gradient is None else gradient.clone()
        optimizer.step()
    expected = plain_adamw(
        [1.0, -2.0, 3.0], [None if g is None else g.tolist() for g in gradients], **options
    )
    # 50 steps of about 10 roundings each, of numbers near 1
    torch.testing.assert_close(parameter.tolist(), expected, rtol=0, atol=1e-13)


def test_first_step_golden_value():
    """At t = 1 the corrected moments are g and g^2: the step is lr * sign(g)."""
    parameter = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    parameter.grad = torch.tensor([1e-3, -4.0, 70.0])
    AdamW([parameter], lr=0.25, weight_decay=0.5, eps=0.0).step()
    # (1 - 0.25 * 0.5) * 1 -+ 0.25; one unit in the last place of 1 from the fused kernel's order
    torch.testing.assert_close(parameter.data, torch.tensor([0.625, 1.125, 0.625]), rtol=0, atol=1.2e-7)


@settings(max_examples=30)
@given(
    lr=st.floats(1e-5, 1.0),
    beta1=st.floats(0.0, 0.99),
    beta2=st.floats(0.5, 0.9999),
    weight_decay=st.floats(0.0, 1.0),
    amsgrad=st.booleans(),
    maximize=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_bit_equal_to_torch_fused(lr, beta1, beta2, weight_decay, amsgrad, maximize, dtype):
    options = {
        "lr": lr,
        "betas": (beta1, beta2),
        "weight_decay": weight_decay,
        "amsgrad": amsgrad,
        "maximize": maximize,
    }
    ours, theirs = make_parameters(dtype), make_parameters(dtype)
    optimizers = AdamW(ours, **options), torch.optim.AdamW(theirs, fused=True, **options)
    for step in range(4):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            give_gradients(parameters, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False, "fused": False}, {"fused": False}])
def test_bit_equal_to_torchs_other_steps(options):
    ours, theirs = make_parameters(), make_parameters()
    optimizers = AdamW(ours, lr=0.1, **options), torch.optim.AdamW(theirs, lr=0.1, **options)
    for step in range(4):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            give_gradients(parameters, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_autograd_runs_through_a_differentiable_step():
    """d theta_1 / d theta_0 = 1 - lr * decay, the gradient held fixed."""
    theta_0 = torch.ones(3, requires_grad=True)
    theta = theta_0.clone()
    theta.grad = torch.full((3,), 2.0)
    AdamW([theta], lr=0.5, weight_decay=0.2, differentiable=True).step()
    theta.sum().backward()
    torch.testing.assert_close(theta_0.grad, torch.full((3,), 0.9))


def test_clipping_is_clip_grad_norm_then_step():
    ours, theirs = make_parameters(), make_parameters()
    optimizer, torchs = AdamW(ours, max_norm=0.7), torch.optim.AdamW(theirs, fused=True)
    for step in range(4):
        give_gradients(ours, step, scale=10.0 ** (step - 2))
        give_gradients(theirs, step, scale=10.0 ** (step - 2))
        optimizer.step()
        nn.utils.clip_grad_norm_(theirs, 0.7)
        torchs.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_clipping_takes_all_groups_together():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = AdamW([{"params": [a]}, {"params": [b], "lr": 0.1}], max_norm=1.0)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.step()
    torch.testing.assert_close(torch.cat([a.grad, b.grad]), torch.tensor([0.6, 0.8]))


def test_fused_is_chosen_where_supported():
    real, complex_ = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    assert AdamW([real]).param_groups[0]["fused"] is True
    assert AdamW(iter([real])).param_groups[0]["fused"] is True
    assert AdamW([("weight", real)]).param_groups[0]["fused"] is True
    assert AdamW([{"params": iter([real])}, {"params": complex_}]).param_groups[0]["fused"] is None
    assert AdamW([real], fused=False).param_groups[0]["fused"] is False
    complex_.grad = torch.ones_like(complex_)
    AdamW([complex_]).step()
    assert complex_.abs().min() > 0


def test_state_dict_goes_to_torch_and_back():
    ours = make_parameters()
    optimizer = AdamW(ours, lr=0.1, max_norm=1e9)
    give_gradients(ours, 0)
    optimizer.step()
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    torchs = torch.optim.AdamW(theirs, lr=0.3, fused=True)
    torchs.load_state_dict(deepcopy(optimizer.state_dict()))
    optimizer.load_state_dict(deepcopy(torchs.state_dict()))
    assert optimizer.max_norm == 1e9
    for parameters, one in ((ours, optimizer), (theirs, torchs)):
        give_gradients(parameters, 1)
        one.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_changes_no_dtype(dtype):
    """Also of `step`, which is float32 beside bfloat16 parameters."""
    parameters = make_parameters(dtype)
    optimizer = AdamW(parameters)
    give_gradients(parameters, 0)
    optimizer.step()
    before = deepcopy(optimizer.state_dict()["state"])
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    after = optimizer.state_dict()["state"]
    assert after.keys() == before.keys() == set(range(len(parameters)))
    for index, entries in before.items():
        for name, value in entries.items():
            loaded = after[index][name]
            assert loaded.dtype == value.dtype
            assert torch.equal(loaded, value)
        assert after[index]["step"].dtype == torch.float32


@pytest.mark.parametrize(
    "make", [AdamW, partial(AdamW, precision="float32"), Lamb], ids=["adamw", "adamw-float32", "lamb"]
)
@pytest.mark.parametrize("fused", [None, True])
def test_step_counters_are_where_the_fused_kernel_reads_them(make, fused, monkeypatch):
    """Pitfall 14: on the parameter's device, also those of a state dict that was loaded onto the CPU."""
    devices: list[str] = []

    def kernel(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, **_):
        devices.extend(one.device.type for one in (*params, *steps))

    monkeypatch.setattr(torch, "_fused_adamw_", kernel)
    monkeypatch.setattr("athena_optim._lamb._fuses", lambda *_: True)  # it takes no tensors of other classes
    with FakeTensorMode():
        param = nn.Parameter(torch.ones(3, 2, dtype=torch.bfloat16, device="cuda"))
        param.grad = torch.ones_like(param)
        optimizer = make([param], fused=fused)
        optimizer.step()
        optimizer.step()
        saved = optimizer.state_dict()
        saved["state"][0]["step"] = saved["state"][0]["step"].cpu()
        saved["param_groups"][0]["fused"] = fused
        optimizer.load_state_dict(saved)
        optimizer.step()
    assert devices == ["cuda"] * 6


def test_tensor_learning_rate_is_filled_not_replaced():
    """Pitfall 14: a captured step reads the tensor that it was captured with."""
    rate = torch.tensor(0.5)
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = AdamW([parameter], lr=rate)
    schedule = warmup_cosine(optimizer, warmup_steps=1, total_steps=4)
    assert rate.item() == 0.25
    parameter.grad = torch.ones(2)
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.5


def test_maximize_climbs_and_leaves_the_gradient():
    """Pitfall 12: the gradient is not negated in place."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, -1.0])
    AdamW([parameter], lr=0.1, maximize=True).step()
    assert parameter.grad.tolist() == [1.0, -1.0]
    torch.testing.assert_close(parameter.data, torch.tensor([0.1, -0.1]))


def test_hooks_run_once_whatever_was_made_before():
    """torch hooks the step of every class instantiated; AdamW must not enter that a second time."""
    parameter = nn.Parameter(torch.zeros(2))
    torch.optim.AdamW([parameter])
    torch.optim.Adam([parameter])
    optimizer = AdamW([parameter], max_norm=1.0)
    seen: list[float] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(parameter.grad[0].item()))
    optimizer.register_step_post_hook(lambda *_: seen.append(parameter.grad[0].item()))
    parameter.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert seen == [3.0, pytest.approx(0.6)], "clipping comes after the hooks before the step"


def test_closure_runs_once_and_its_gradients_are_clipped():
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = AdamW([parameter], lr=0.1, max_norm=1.0)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = parameter.square().sum() / 2
        loss.backward()
        calls.append(loss.item())
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 12.5
    assert calls == [12.5]
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]))


def test_scaler_unscales_before_clipping():
    """Pitfall 16: unscale, clip, step; the norm is that of the true gradients."""
    ours, theirs = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer, plain = AdamW([ours], max_norm=1.0), AdamW([theirs], max_norm=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((ours * torch.tensor([0.3, 0.4])).sum()).backward()
    scaler.step(optimizer)
    theirs.grad = torch.tensor([0.3, 0.4])
    plain.step()
    torch.testing.assert_close(ours.grad, torch.tensor([0.3, 0.4]))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_scaler_skips_a_step_with_infinite_gradients(max_norm):
    parameter = nn.Parameter(torch.ones(2))
    optimizer = AdamW([parameter], max_norm=max_norm)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((parameter * torch.tensor([1.0, math.inf])).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert parameter.tolist() == [1.0, 1.0]
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonfinite_gradients_follow_the_policy(value):
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, value])
    with pytest.raises(RuntimeError, match="finite norm"):
        AdamW([parameter], max_norm=1.0).step()
    assert parameter.tolist() == [1.0, 1.0]
    AdamW([parameter], max_norm=1.0, nonfinite="zero", weight_decay=0.0).step()
    assert parameter.tolist() == [1.0, 1.0]


def test_options_survive_copying_and_pickling():
    optimizer = AdamW(make_parameters(), max_norm=0.5, nonfinite="zero")
    copied = deepcopy(optimizer)
    assert (copied.max_norm, copied.nonfinite) == (0.5, "zero")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "`lr` must be finite and at least 0; got -1.0"),
        ({"lr": math.nan}, "`lr`"),
        ({"lr": math.inf}, "`lr`"),
        ({"betas": (1.0, 0.9)}, r"`betas\[0\]` must lie in \[0, 1\)"),
        ({"betas": (0.9, math.nan)}, r"`betas\[1\]`"),
        ({"eps": -1e-8}, "`eps`"),
        ({"weight_decay": -0.1}, "`weight_decay`"),
        ({"max_norm": 0.0}, "`max_norm` must be above 0"),
        ({"max_norm": math.nan}, "`max_norm`"),
        ({"max_norm": 1.0, "nonfinite": "ignore"}, "`nonfinite` must be 'raise', 'skip', 'zero' or None"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AdamW(make_parameters(), **options)


def test_bad_group_options_are_refused():
    """torch checks the defaults only."""
    with pytest.raises(ValueError, match="`lr`"):
        AdamW([{"params": make_parameters(), "lr": -1.0}])
    optimizer = AdamW(make_parameters())
    with pytest.raises(ValueError, match="`weight_decay`"):
        optimizer.add_param_group({"params": make_parameters(), "weight_decay": math.nan})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"fused": True, "foreach": True},
        {"fused": True, "differentiable": True},
        {"max_norm": 1.0, "differentiable": True},
    ],
)
def test_illegal_pairs_are_refused(options):
    with pytest.raises(RuntimeError):
        AdamW(make_parameters(), **options)


def test_bad_parameters_are_refused():
    parameter = nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="empty parameter list"):
        AdamW([])
    with pytest.raises(TypeError, match="got one tensor"):
        AdamW(parameter)
    with pytest.raises(ValueError, match="more than one parameter group"):
        AdamW([{"params": [parameter]}, {"params": [parameter]}])
    parameter.grad = torch.sparse_coo_tensor(
        torch.tensor([[0], [1]]), torch.ones(1), (3, 2), check_invariants=True
    )
    with pytest.raises(RuntimeError, match="sparse"):
        AdamW([parameter]).step()


def test_clip_gradients_is_what_the_option_calls():
    ours, theirs = make_parameters(), make_parameters()
    give_gradients(ours, 0)
    give_gradients(theirs, 0)
    AdamW(ours, lr=0.0, max_norm=0.1).step()
    clip_gradients(theirs, 0.1)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("unscaled", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_a_scaler_skips_a_step_with_infinite_gradients(unscaled, turned):
    """Pitfall 11, by the scaler itself or by the fused kernel; also of gradients in another order."""
    param = nn.Parameter(torch.ones(3, 2))
    optimizer = AdamW([param], weight_decay=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for bad in (False, True, False):
        gradient = torch.full((2, 3), torch.inf if bad else 4.0).T if turned else torch.full((3, 2), 4.0)
        if bad and not turned:
            gradient[1, 1] = torch.inf
        scaler.scale(torch.zeros(()))
        scaler._per_optimizer_states.clear()
        param.grad = gradient
        if unscaled:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    assert int(optimizer.state[param]["step"]) == 2
    assert torch.isfinite(param).all()


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
@pytest.mark.parametrize("precision", ["param", "float32", "stochastic"])
def test_a_checkpoint_of_a_model_in_another_dtype_goes_on(dtypes, precision):
    saved, loaded = (nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in dtypes)
    first = AdamW([saved])
    saved.grad = torch.ones_like(saved)
    first.step()
    second = AdamW([loaded], precision=precision)
    second.load_state_dict(first.state_dict())
    loaded.grad = torch.ones_like(loaded)
    second.step()
    assert int(second.state[loaded]["step"]) == 2
    assert torch.isfinite(loaded).all()


def test_torchs_checkpoint_does_not_take_the_fused_step_away():
    """Its groups say `fused: None`, which here is a choice made on construction."""
    theirs = torch.optim.AdamW(make_parameters())
    optimizer = AdamW(make_parameters())
    optimizer.load_state_dict(theirs.state_dict())
    assert optimizer.param_groups[0]["fused"] is True
    chosen = AdamW(make_parameters(), foreach=False)
    assert not chosen.param_groups[0]["fused"], "foreach=False asks for the loop"


def test_checkpoints_from_before_the_decay_was_an_option_load_and_adams_do_not():
    old = torch.optim.AdamW(make_parameters()).state_dict()
    for group in old["param_groups"]:
        del group["decoupled_weight_decay"]
    AdamW(make_parameters()).load_state_dict(old)
    with pytest.raises(ValueError, match="must be of AdamW; got one of Adam"):
        AdamW(make_parameters()).load_state_dict(torch.optim.Adam(make_parameters()).state_dict())


@pytest.mark.parametrize("name", ["max_norm", "nonfinite", "precision"])
def test_options_of_the_optimizer_are_refused_in_a_group(name):
    """They would do nothing there."""
    with pytest.raises(ValueError, match=f"`{name}` is an option of the optimizer, not of a group"):
        AdamW([{"params": make_parameters(), name: 1.0}])


def test_a_groups_own_flags_are_checked():
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        AdamW([{"params": make_parameters(), "foreach": True, "fused": True}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": None}, "`lr` must be a number; got None"),
        ({"lr": "1e-3"}, "`lr` must be a number; got '1e-3'"),
        ({"betas": (0.9, "0.99")}, r"`betas\[1\]` must be a number"),
    ],
)
def test_options_of_another_type_are_named(options, message):
    with pytest.raises(TypeError, match=message):
        AdamW(make_parameters(), **options)


@pytest.mark.parametrize("betas", [(0.9,), (0.9, 0.99, 0.999), 0.9])
def test_betas_are_two(betas):
    with pytest.raises(ValueError, match="`betas` must be two numbers"):
        AdamW(make_parameters(), betas=betas)
