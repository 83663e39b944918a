"""The package passes the kit it is judged by, and the kit's laws fail where they should."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from athena_core import Component
from athena_core.testing import conformance
from athena_optim import AdamW, warmup_cosine
from athena_optim._laws import group_checks, optimizer_checks, schedule_checks

test_conformance = conformance("athena-optim")

COMPONENT = Component("optimizer", "broken", "tests:broken", "Breaks a law")


class Forgetful(AdamW):
    """Loads nothing, as a wrapper does that keeps its state elsewhere."""

    def load_state_dict(self, state_dict):
        pass


class Partial(AdamW):
    """Loads the state of its first group only."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for group in self.param_groups[1:]:
            for parameter in group["params"]:
                del self.state[parameter]


class Negating(AdamW):
    """Negates gradients in place (pitfall 12)."""

    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.neg_()
        return loss


class Restless(AdamW):
    """Decays parameters that have no gradient."""

    def step(self, closure=None):
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.mul_(0.99)
        return super().step(closure)


class Twice(AdamW):
    """Enters torch's hooks a second time, as `super().step()` does."""

    def step(self, closure=None):
        for hook in self._optimizer_step_pre_hooks.values():
            hook(self, (), {})
        return super().step(closure)


class Dull(AdamW):
    """Drops what the closure returned."""

    def step(self, closure=None):
        super().step(closure)


def failures(checks) -> set[str]:
    failed = set()
    for check in checks:
        try:
            check()
        except (AssertionError, RuntimeError):
            failed.add(check.name)
    return failed


@pytest.mark.parametrize(
    ("optimizer", "law"),
    [
        (Forgetful, "resumes exactly after weights_only loading, float32"),
        (Partial, "takes groups added late"),
        (Negating, "step leaves gradients as they are"),
        (Restless, "no gradients, no change"),
        (Twice, "step hooks run once"),
        (Dull, "closure runs with gradients enabled, its first value returned"),
        (partial(AdamW, maximize=True), "fifty steps lower a loss"),
    ],
)
def test_a_broken_optimizer_fails_its_law(optimizer, law):
    assert law in failures(optimizer_checks(COMPONENT, optimizer))


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_torchs_optimizers_obey_all_laws(optimizer):
    assert failures(optimizer_checks(COMPONENT, optimizer)) == set()


def test_torchs_schedules_obey_all_laws():
    checks = schedule_checks(COMPONENT, partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.99))
    assert failures(checks) == set()


def test_a_schedule_that_forgets_its_step_fails_its_law():
    class Forgetful(torch.optim.lr_scheduler.ExponentialLR):
        def load_state_dict(self, state_dict):
            super().load_state_dict({**state_dict, "last_epoch": 0, "_last_lr": [1.0]})

        def get_lr(self):
            return [base * 0.99**self.last_epoch for base in self.base_lrs]

    assert "resumes exactly at step 7" in failures(schedule_checks(COMPONENT, partial(Forgetful, gamma=0.99)))


def test_ours_puts_its_rate_in_force_when_loaded_alone_and_torchs_does_not():
    """Without the optimizer's own state: torch's schedulers leave there what their constructor wrote."""

    def rate_after_loading(target):
        optimizers = [torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0) for _ in range(2)]
        first, second = (target(optimizer) for optimizer in optimizers)
        for _ in range(7):
            optimizers[0].step()
            first.step()
        second.load_state_dict(first.state_dict())
        return [optimizer.param_groups[0]["lr"] for optimizer in optimizers]

    before, after = rate_after_loading(partial(warmup_cosine, warmup_steps=3, total_steps=20))
    assert before == after
    before, after = rate_after_loading(partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.99))
    assert before != after


def test_a_schedule_that_starts_at_zero_fails_its_law():
    def from_zero(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 1000)

    assert "rates are finite, none negative, the first above 0" in failures(
        schedule_checks(COMPONENT, from_zero)
    )
    ours = schedule_checks(COMPONENT, partial(warmup_cosine, warmup_steps=3, total_steps=9))
    assert failures(ours) == set()


def test_groups_with_everything_fail_their_law():
    def everything(model: nn.Module):
        return [{"params": list(model.parameters())}]

    assert failures(group_checks(COMPONENT, everything)) == {
        "each trainable parameter once, frozen ones never"
    }
