"""What all wrappers share: the laws, other optimizers' contracts inside, checkpoints, shards."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
from contextlib import nullcontext
from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from athena_core import Component
from athena_optim import SAM, AdamW, CentralizedGradients, Lookahead, evaluation_weights
from athena_optim._notes import Notes
from athena_optim._wrapper import Wrapper
from athena_optim._wrapper_laws import wrapper_checks

COMPONENT = Component("optimizer-wrapper", "any", "tests:any", "Is judged")
WRAPPERS = {
    "lookahead": partial(Lookahead, k=3),
    "pullback": partial(Lookahead, k=3, momentum="pullback"),
    "centralized": CentralizedGradients,
    "sam": SAM,
    "lookahead-centralized": lambda o: Lookahead(CentralizedGradients(o), k=3),
    "centralized-lookahead": lambda o: CentralizedGradients(Lookahead(o, k=3)),
    "sam-centralized-lookahead": lambda o: SAM(CentralizedGradients(Lookahead(o, k=3))),
    "centralized-sam": lambda o: CentralizedGradients(SAM(o), max_norm=1.0),
}
every = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@every
def test_it_obeys_the_laws(wrap):
    """Pitfalls 8 and 10 among them: loading, groups added late, and hooks of state dicts."""
    for check in wrapper_checks(COMPONENT, wrap):
        check()


class Plain(Wrapper):
    """Adds nothing."""

    def step(self, closure=None):
        return self.inner_step(closure)


class Uninitialised(Plain):
    """Skips torch's constructor (pitfall 10)."""

    def __init__(self, optimizer):
        self.__dict__["optimizer"] = optimizer
        self._notes = Notes()


class Copying(Plain):
    """Holds the list of groups that was there at first."""

    def __init__(self, optimizer):
        self._groups = optimizer.param_groups
        super().__init__(optimizer)

    @property
    def param_groups(self):
        return self._groups

    @param_groups.setter
    def param_groups(self, value):
        pass


class Eager(Plain):
    """Evaluates by itself, and lets the inner optimizer do it again."""

    def step(self, closure=None):
        loss = super().step(closure)
        return loss if closure is None else closure()


def failures(wrap) -> set[str]:
    failed = set()
    for check in wrapper_checks(COMPONENT, wrap):
        try:
            check()
        except (AssertionError, AttributeError, KeyError, RuntimeError):
            failed.add(check.name)
    return failed


@pytest.mark.parametrize(
    ("wrap", "law"),
    [
        (Uninitialised, "its hooks and the inner optimizer's run once"),
        (Copying, "an optimizer whose groups are the inner one's list"),
        (Eager, "closure runs with gradients enabled, its first value returned"),
    ],
)
def test_a_broken_wrapper_fails_its_law(wrap, law):
    assert law in failures(wrap)


def test_a_wrapper_that_adds_nothing_obeys_all_laws():
    assert failures(Plain) == set()


def test_only_optimizers_are_wrapped():
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.Optimizer; got list"):
        SAM([nn.Parameter(torch.zeros(1))])


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))


def train(model, optimizer, steps, x=None):
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(7)) if x is None else x
    losses = []
    for step in steps:

        def closure(step=step):
            optimizer.zero_grad()
            loss = (model(x) * (1 + step % 3)).square().mean()
            loss.backward()
            return loss.detach()

        losses.append(optimizer.step(closure))
    return losses


@pytest.mark.parametrize(
    "inner",
    [
        partial(torch.optim.SGD, lr=0.1),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
        partial(torch.optim.Adam, lr=0.01, amsgrad=True),
        partial(torch.optim.Adafactor, lr=0.05),
        partial(torch.optim.RMSprop, lr=0.01, centered=True),
        partial(torch.optim.LBFGS, lr=0.5, max_iter=3),
    ],
)
@pytest.mark.parametrize("name", ["lookahead", "centralized", "sam", "sam-centralized-lookahead"])
def test_other_optimizers_inside_learn_and_resume(inner, name):
    model = make_model()
    optimizer = WRAPPERS[name](inner(model.parameters()))
    losses = train(model, optimizer, range(0, 12, 3))
    assert losses[-1] < losses[0]
    resumed_model = deepcopy(model)
    resumed = WRAPPERS[name](inner(resumed_model.parameters()))
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    train(model, optimizer, range(4))
    train(resumed_model, resumed, range(4))
    for ours, theirs in zip(model.parameters(), resumed_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_global_hook_sees_each_optimizer_once():
    model = make_model()
    optimizer = Lookahead(CentralizedGradients(AdamW(model.parameters())))
    seen = []
    handle = register_optimizer_step_post_hook(lambda optimizer, *_: seen.append(type(optimizer).__name__))
    train(model, optimizer, range(1))
    handle.remove()
    assert seen == ["AdamW", "CentralizedGradients", "Lookahead"]


def test_a_bare_state_dict_serves_wrappers_without_state_and_back():
    model = make_model()
    bare = AdamW(model.parameters())
    train(model, bare, range(2))
    wrapped = SAM(CentralizedGradients(AdamW(model.parameters())))
    wrapped.load_state_dict(bare.state_dict())
    AdamW(model.parameters()).load_state_dict(wrapped.state_dict())


def test_slow_weights_are_refused_without_lookahead():
    model = make_model()
    optimizer = Lookahead(AdamW(model.parameters()))
    for other in (CentralizedGradients(AdamW(model.parameters())), SAM(AdamW(model.parameters()))):
        with pytest.raises(ValueError, match="without Lookahead; got one with slow weights"):
            other.load_state_dict(optimizer.state_dict())
        with pytest.raises(ValueError, match="Load it into the optimizer that Lookahead wraps"):
            CentralizedGradients(optimizer).load_state_dict(other.state_dict())


def test_hooks_of_state_dicts_may_change_them():
    model = make_model()
    optimizer = CentralizedGradients(Lookahead(AdamW(model.parameters())))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "note": 1})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: {k: state[k] for k in state if k != "note"})
    saved = optimizer.state_dict()
    assert saved["note"] == 1
    optimizer.load_state_dict(saved)
    assert saved["note"] == 1


def test_repr_names_all():
    text = repr(Lookahead(CentralizedGradients(AdamW([nn.Parameter(torch.zeros(1))], lr=0.5)), k=7))
    for part in ("Lookahead(CentralizedGradients(AdamW (", "lr: 0.5", "k=7", "conv_only=False", "alpha=0.5"):
        assert part in text


def test_evaluation_weights_reach_through_wrappers():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = SAM(CentralizedGradients(Lookahead(torch.optim.SGD([weight], lr=1.0))), rho=0.0)

    def closure():
        weight.grad = torch.ones(1)

    optimizer.step(closure)
    with evaluation_weights(optimizer):
        assert weight.item() == 0
    assert weight.item() == -1
    with evaluation_weights(optimizer.optimizer.optimizer.optimizer) as nothing:
        assert weight.item() == -1
    assert nothing is None
    assert isinstance(evaluation_weights(SAM(AdamW([weight]))), nullcontext)


@every
@pytest.mark.parametrize("flat", [False, True])
def test_distributed_checkpoints_go_on_alike(wrap, flat):
    """Pitfall 8: by name, flattened too, into an optimizer that has made no step."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model = make_model()
    optimizer = wrap(torch.optim.AdamW(model.parameters(), lr=0.01))
    train(model, optimizer, range(4))
    before = deepcopy(list(model.parameters()))
    saved = deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    resumed_model = deepcopy(model)
    resumed = wrap(torch.optim.AdamW(resumed_model.parameters(), lr=0.5))
    set_optimizer_state_dict(resumed_model, resumed, saved, options=options)
    train(model, optimizer, range(4, 10))
    train(resumed_model, resumed, range(4, 10))
    for ours, theirs in zip(model.parameters(), resumed_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def _train_sharded(rank: int, port: int) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    mesh = dist.init_device_mesh("cpu", (2,))
    for name, wrap in WRAPPERS.items():
        whole, sharded = make_model().double(), make_model().double()
        fully_shard(sharded, mesh=mesh)
        x = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
        optimizers = [wrap(torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)) for m in (whole, sharded)]
        for model, optimizer in zip((whole, sharded), optimizers, strict=True):
            train(model, optimizer, range(7), x)
        for ours, theirs in zip(sharded.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(
                ours.full_tensor(), theirs.data, msg=lambda text, name=name: name + text
            )
        with evaluation_weights(optimizers[1]), evaluation_weights(optimizers[0]):
            torch.testing.assert_close(sharded[0].weight.full_tensor(), whole[0].weight.data)
    for shard in (0, 1):
        for axis in (0, 1):
            grad = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            weight = nn.Parameter(distribute_tensor(torch.zeros_like(grad), mesh, [Shard(shard)]))
            weight.grad = distribute_tensor(grad, mesh, [Shard(shard)])
            group = {"params": [weight], "output_axis": axis}
            CentralizedGradients(torch.optim.SGD([group], lr=1.0)).step()
            expected = grad - grad.mean(1 - axis, keepdim=True)
            torch.testing.assert_close(weight.grad.full_tensor(), expected)
            weight.grad = distribute_tensor(grad, mesh, [Shard(shard)])
            sam = SAM(torch.optim.SGD([weight]), rho=1.0)
            before = weight.full_tensor().detach()
            sam.perturb()
            assert math.isclose((weight.full_tensor() - before).norm().item(), 1.0)
            sam.restore()
            assert torch.equal(weight.full_tensor(), before)
    dist.barrier()
    print("equal", flush=True)
    dist.destroy_process_group()


def test_sharded_parameters_step_as_whole_ones():
    """Pitfall 15: means and norms are those of the whole tensor, over FSDP2 and other shards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "error", __file__, str(port)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(rank)], **pipes) for rank in (0, 1)]
    answers = [process.communicate(timeout=120) for process in processes]
    # Not the exit status: a thread of gloo now and then aborts a process that is done.
    assert [answer for answer, _ in answers] == ["equal\n", "equal\n"], answers


if __name__ == "__main__":
    _train_sharded(port=int(sys.argv[1]), rank=int(sys.argv[2]))


@pytest.mark.parametrize("wrap", [Lookahead, CentralizedGradients, SAM])
def test_autograd_through_a_wrapper_is_refused(wrap):
    """They change gradients or parameters outside of it: hypergradients would be wrong."""
    inner = AdamW([nn.Parameter(torch.ones(2))], differentiable=True)
    with pytest.raises(RuntimeError, match="does not support `differentiable`"):
        wrap(inner)


def test_weights_to_evaluate_are_found_inside_another_librarys_wrapper():
    """Accelerate's holds the optimizer as `.optimizer`."""

    class Holder(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

    weight = nn.Parameter(torch.ones(1))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=0.25))
    weight.grad = torch.ones(1)
    optimizer.step()
    with evaluation_weights(Holder(optimizer)):
        assert weight.item() == 1.0
    with evaluation_weights(Holder(torch.optim.SGD([weight], lr=1.0))):
        assert weight.item() == 0.75
    with pytest.raises(TypeError, match=r"`optimizer` must be a torch\.optim\.Optimizer; got Linear"):
        evaluation_weights(nn.Linear(1, 1))
