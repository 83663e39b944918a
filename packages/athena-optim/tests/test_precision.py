"""AdamW's ways of updating bfloat16 parameters, and stochastic rounding."""

from __future__ import annotations

import io
import math
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from athena_optim import AdamW, round_stochastically
from athena_optim._adamw_wide import _take_changes
from athena_optim._buckets import PIECE

SHAPES = [(PIECE + 3,), (7, 5), (), (0,)]


def make(dtype: torch.dtype = torch.bfloat16) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator).to(torch.bfloat16).to(dtype)) for s in SHAPES]


def put(params: list[nn.Parameter], step: int) -> None:
    """Gradients that bfloat16 holds, the same for each dtype."""
    generator = torch.Generator().manual_seed(100 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(torch.bfloat16).to(param.dtype)


def train(optimizer: AdamW, steps: range) -> None:
    for step in steps:
        put([p for group in optimizer.param_groups for p in group["params"]], step)
        optimizer.step()


def saved(optimizer: AdamW):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True, "weight_decay": 0.1}, {"maximize": True}, {"max_norm": 0.1}]
)
def test_float32_state_is_an_optimizer_of_float32_copies(options):
    """Bit for bit: the bfloat16 parameters are the roundings of what float32 ones would be."""
    ours, wide = make(), make(torch.float32)
    optimizer, other = AdamW(ours, precision="float32", **options), AdamW(wide, **options)
    if "max_norm" in options:  # clipping rounds the gradients to bfloat16
        train(optimizer, range(1))
        for one, p in zip(wide, ours, strict=True):
            one.grad = p.grad.float()
        other.max_norm = None
        other.step()
    else:
        train(optimizer, range(10))
        train(other, range(10))
    for a, b in zip(ours, wide, strict=True):
        assert a.dtype == torch.bfloat16
        assert torch.equal(optimizer.state[a]["master"], b)
        assert torch.equal(a, b.to(torch.bfloat16))


def test_small_updates_are_lost_in_bfloat16_alone():
    """1,000 updates of 1e-4 on a weight of 1, below half a unit in the last place of bfloat16."""
    ends = {}
    for precision in ("param", "float32", "stochastic"):
        param = nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
        optimizer = AdamW([param], lr=1e-4, weight_decay=0.0, precision=precision)
        for _ in range(1000):
            param.grad = torch.ones_like(param)
            optimizer.step()
        ends[precision] = param.float().mean().item()
    assert ends["param"] == 1.0
    assert ends["float32"] == pytest.approx(0.9, abs=4e-3)
    assert ends["stochastic"] == pytest.approx(0.9, abs=4e-3)


def test_stochastic_state_is_bfloat16_and_right_in_the_mean():
    """Over 64 seeds each weight's mean is nearer the float32 path than one rounding; the moments too."""
    exact = [nn.Parameter(torch.linspace(-1, 1, 50).to(torch.bfloat16).float())]
    train(AdamW(exact, lr=0.01), range(3))
    ends = []
    for seed in range(64):
        params = [nn.Parameter(torch.linspace(-1, 1, 50).to(torch.bfloat16))]
        optimizer = AdamW(params, lr=0.01, precision="stochastic", seed=seed)
        train(optimizer, range(3))
        state = optimizer.state[params[0]]
        assert {state[name].dtype for name in ("exp_avg", "exp_avg_sq")} == {torch.bfloat16}
        assert "master" not in state
        ends.append(params[0].detach().float())
    spread = torch.stack(ends)
    assert spread.std(dim=0).max() > 0
    errors = spread.mean(dim=0) - exact[0].detach()
    # A rounding's error has at most half a unit's standard deviation, 2^-9 near 1; three steps; 64 seeds.
    assert errors.abs().max() < 4 * math.sqrt(3) * 2**-9 / math.sqrt(64)


@pytest.mark.parametrize("precision", ["float32", "stochastic"])
@pytest.mark.parametrize("cut", [0, 1, 4])
def test_resuming_equals_going_on(precision, cut):
    """Pitfall 13, and random roundings that are a function of the seed and the step."""
    params = make()
    optimizer = AdamW(params, precision=precision, amsgrad=True, seed=3)
    train(optimizer, range(cut))
    state = saved(optimizer)
    copies = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = AdamW(copies, precision=precision, amsgrad=True, seed=3)
    resumed.load_state_dict(state)
    train(optimizer, range(cut, 6))
    train(resumed, range(cut, 6))
    for a, b in zip(params, copies, strict=True):
        assert torch.equal(a, b)
        for name, value in optimizer.state[a].items():
            assert value.dtype == resumed.state[b][name].dtype
            assert torch.equal(value, resumed.state[b][name])


def test_seeds_differ_and_repeat():
    def run(seed: int) -> list[torch.Tensor]:
        params = make()
        train(AdamW(params, precision="stochastic", seed=seed), range(2))
        return [p.detach() for p in params]

    first, again, other = run(0), run(0), run(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_random_roundings_leave_the_global_generator_alone():
    params = make()
    before = torch.get_rng_state()
    train_state = AdamW(params, precision="stochastic")
    put(params, 0)
    train_state.step()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_parameter_written_from_outside_is_its_masters_new_value():
    """Lookahead, a loaded model: the next step must not bring the old weights back."""
    param = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = AdamW([param], lr=0.01, weight_decay=0.0, precision="float32")
    param.grad = torch.ones_like(param)
    optimizer.step()
    kept = optimizer.state[param]["master"].clone()
    with torch.no_grad():
        param[0] = 5.0
    optimizer.step()
    master = optimizer.state[param]["master"]
    assert master[0].item() == pytest.approx(4.99, abs=1e-4)
    torch.testing.assert_close(master[1:], kept[1:] - 0.01, rtol=0, atol=1e-5)


def test_other_dtypes_of_the_same_group_take_torchs_step():
    mixed = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, dtype=torch.bfloat16))]
    plain = nn.Parameter(torch.ones(3))
    optimizer, other = AdamW(mixed, precision="float32"), torch.optim.AdamW([plain], fused=True)
    for param in [*mixed, plain]:
        param.grad = torch.ones_like(param)
    optimizer.step()
    other.step()
    assert torch.equal(mixed[0], plain)
    assert "master" not in optimizer.state[mixed[0]]
    assert torch.equal(optimizer.state[mixed[1]]["master"], plain)
    assert int(optimizer.state[mixed[1]]["step"]) == 1


def test_a_checkpoint_of_plain_adamw_becomes_one_with_master_copies():
    params = make()
    plain = AdamW(params)
    train(plain, range(2))
    copies = [nn.Parameter(p.detach().clone()) for p in params]
    wide = AdamW(copies, precision="float32")
    wide.load_state_dict(saved(plain))
    train(wide, range(2, 3))
    state = wide.state[copies[1]]
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert int(state["step"]) == 3
    with pytest.raises(ValueError, match="parameter 0 has master"):
        plain.load_state_dict(saved(wide))


@pytest.mark.parametrize("precision", ["float32", "stochastic"])
def test_copies_go_on_alike(precision):
    params = make()
    optimizer = AdamW(params, precision=precision)
    train(optimizer, range(2))
    copied_params, copied = deepcopy((params, optimizer))
    train(optimizer, range(2, 4))
    train(copied, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(params, copied_params, strict=True))


def test_float16_has_master_copies_and_no_random_rounding():
    param = nn.Parameter(torch.ones(3, dtype=torch.float16))
    optimizer = AdamW([param], lr=1e-5, weight_decay=0.0, precision="float32")
    for _ in range(100):
        param.grad = torch.ones_like(param)
        optimizer.step()
    assert param[0].item() == pytest.approx(0.999, abs=5e-4)
    with pytest.raises(ValueError, match="'stochastic' is for bfloat16; got a float16 parameter"):
        AdamW([param], precision="stochastic")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precision": "bf16"}, ValueError, "`precision` must be one of"),
        ({"precision": "float32", "differentiable": True}, RuntimeError, "`precision` does not support"),
        ({"precision": "stochastic", "capturable": True}, RuntimeError, "does not support `capturable`"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        AdamW(make(), **options)


@settings(max_examples=50)
@given(st.floats(width=32, allow_nan=True, allow_infinity=True))
def test_rounding_gives_a_neighbour(value):
    values = torch.full((64,), value)
    rounded = round_stochastically(values, torch.Generator().manual_seed(0)).float()
    if math.isnan(value):
        assert torch.isnan(rounded).all()
        return
    bits = values.view(torch.int32)
    below, above = ((bits & -(2**16)).view(torch.float32), ((bits & -(2**16)) + 2**16).view(torch.float32))
    exact = torch.equal(below, values)
    assert ((rounded == below) | ((rounded == above) & (not exact))).all()


@pytest.mark.parametrize("bits", [0x7FFFFFFF, -1, 0x7FC00000])
def test_nans_of_any_bits_stay_nans(bits):
    """A CUDA device's NaN has all bits set, to which noise would add a carry."""
    values = torch.full((64,), bits, dtype=torch.int32).view(torch.float32)
    assert torch.isnan(round_stochastically(values, torch.Generator())).all()


def test_rounding_needs_a_generator_of_the_device():
    with FakeTensorMode():
        values = torch.ones(3, device="cuda")
    with pytest.raises(
        ValueError, match=r"`generator` must be on the device of `values`, cuda:0; got one on cpu"
    ):
        round_stochastically(values, torch.Generator())


class Draws(TorchFunctionMode):
    """Counts the calls that draw."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.randint
        return func(*args, **(kwargs or {}))


def test_small_tensors_are_rounded_together():
    """In one row, each by its own count of steps, and whatever its layout."""
    shapes = [(5,), (), (0,), (3, 4, 2, 2), (7, 3)]
    params = [nn.Parameter(torch.randn(shape).to(torch.bfloat16)) for shape in shapes]
    params[3].data = params[3].data.to(memory_format=torch.channels_last)
    params[4].data = params[4].data.T.contiguous().T
    exact = [nn.Parameter(p.detach().float()) for p in params]
    ours, theirs = AdamW(params, lr=0.01, precision="stochastic"), AdamW(exact, lr=0.01)
    for step in range(3):
        for p, q in zip(params, exact, strict=True):
            if step or p.shape != (5,):  # the first comes a step later
                p.grad = torch.randn(p.shape).to(torch.bfloat16)
                q.grad = p.grad.float()
        with Draws() as draws:
            ours.step()
        theirs.step()
        assert draws.count == 3  # of weights and two moments
    assert [ours.state[p]["step"].item() for p in params] == [2.0, 3.0, 3.0, 3.0, 3.0]
    for p, q in zip(params, exact, strict=True):  # three roundings of a part in 128, of weights up to 4
        torch.testing.assert_close(p.float(), q, rtol=3 / 128, atol=3e-3)


@pytest.mark.parametrize("foreign", [0.0, 0.5])
def test_masters_of_a_device_are_mended_together(foreign):
    """As one by one on the CPU, the device being a name alone."""
    masters = [torch.randn(shape) for shape in [(3, 2), (), (0,), (2, 3, 2, 2)]]
    masters[3] = masters[3].to(memory_format=torch.channels_last)
    params = [m.to(torch.bfloat16) + foreign for m in masters]
    expected = [m.clone() for m in masters]
    _take_changes(expected, params)
    ours = [m.clone().as_subclass(OnADevice) for m in masters]
    _take_changes(ours, params)
    for one, other in zip(ours, expected, strict=True):
        assert torch.equal(one.as_subclass(torch.Tensor), other)
    if foreign:
        assert all(torch.equal(m, p.float()) for m, p in zip(expected, params, strict=True))


class OnADevice(torch.Tensor):
    """Says that it is on an accelerator, and is on the CPU."""

    @property
    def device(self):
        return torch.device("cuda")


def test_rounding_needs_float32():
    with pytest.raises(TypeError, match="`values` must be float32"):
        round_stochastically(torch.ones(1, dtype=torch.float64), torch.Generator())
