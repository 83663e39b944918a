"""A whole model learns on the made-up device as on the CPU: eager, under autocast, and compiled."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from imaginary import NAME
from torch import Tensor, nn
from torch._inductor.exc import InductorError

import athena_xpu
from athena_core import _kernels, kernels
from athena_nn import Decoder
from athena_optim import AdamW

USED = {"athena_nn::add_rms_norm", "athena_nn::rms_norm", "athena_nn::rotary", "athena_nn::swiglu"}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    # `Module.to` makes new parameters on PrivateUse1 devices, and unties those that are tied, unless they
    # are swapped: torch counts the device not among those whose tensors are as the CPU's.
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    _kernels.forget()
    athena_xpu.register(NAME)
    yield
    torch.__future__.set_swap_module_params_on_conversion(before)
    _kernels.forget()


def small_decoder() -> Decoder:
    from athena_nn import RotaryPositions

    return Decoder(31, 16, num_layers=2, num_heads=2, ff_dim=24, positions=RotaryPositions(8))


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1).float(), tokens[:, 1:].flatten())


def train(model: nn.Module, tokens: Tensor, steps: int = 3) -> list[float]:
    optimizer = AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, tokens)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def installed() -> set[str]:
    return {row.op for row in kernels() if (row.device, row.why) == (NAME, "installed")}


def test_a_decoder_learns_as_on_the_cpu() -> None:
    here, tokens = small_decoder(), torch.randint(31, (2, 7))
    there = copy.deepcopy(here).to(NAME)
    found, expected = train(there, tokens.to(NAME)), train(here, tokens)
    assert installed() >= USED
    assert found == pytest.approx(expected, rel=1e-4)  # AdamW's first steps double what rounding differs
    assert found[-1] < found[0]
    for (name, ours), theirs in zip(there.named_parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(ours.detach().cpu(), theirs.detach(), atol=1e-3, rtol=1e-3, msg=name)


def test_autocast() -> None:
    """bfloat16 reaches the kernels; gradients come in the parameters' dtype."""
    here, tokens = small_decoder(), torch.randint(31, (2, 7))
    there = copy.deepcopy(here).to(NAME)
    with torch.autocast(NAME, torch.bfloat16):
        logits = there(tokens.to(NAME))
        loss = loss_of(there, tokens.to(NAME))
    assert logits.dtype == torch.bfloat16
    loss.backward()
    assert installed() >= USED
    expected = loss_of(here, tokens)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    for ours, theirs in zip(there.parameters(), here.parameters(), strict=True):
        assert ours.grad.dtype == torch.float32
        scale = theirs.grad.abs().max().item()
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad, atol=0.05 * scale, rtol=0)


def test_autocast_refuses_what_the_device_lacks() -> None:
    with pytest.warns(UserWarning, match="imaginary"), torch.autocast(NAME, torch.float64):
        assert not torch.is_autocast_enabled(NAME)


def test_a_compiled_decoder_learns_as_an_eager_one() -> None:
    eager, tokens = small_decoder().to(NAME), torch.randint(31, (2, 7)).to(NAME)
    compiled = copy.deepcopy(eager)
    try:
        found = train(torch.compile(compiled, backend="aot_eager", fullgraph=True), tokens)
    finally:
        torch._dynamo.reset()
    assert found == pytest.approx(train(eager, tokens), rel=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of torch.jit
@pytest.mark.xfail(
    strict=True,
    raises=InductorError,
    reason="Inductor has no code generator for a PrivateUse1 device until its vendor registers one: KeyError",
)
def test_inductor() -> None:
    x = torch.randn(3, 8, device=NAME)
    try:
        torch.compile(lambda x: x.sin() + 1, fullgraph=True)(x)
    finally:
        torch._dynamo.reset()
