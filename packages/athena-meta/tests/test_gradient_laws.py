"""The laws of inner updates and of learners fail where they should."""

from __future__ import annotations

import pytest
import torch

from athena_core import Component
from athena_meta import MAML, Descent, InnerAdam, InnerMomentum
from athena_meta._few_shot_learner_laws import few_shot_learner_checks
from athena_meta._inner_update_laws import inner_update_checks

COMPONENT = Component("inner-update", "broken", "tests:broken", "Breaks a law")


class InPlace(Descent):
    def forward(self, parameters, gradients, state, step):
        return {
            name: value.data.sub_(gradients[name], alpha=0.1) for name, value in parameters.items()
        }, state


class Uphill(Descent):
    def forward(self, parameters, gradients, state, step):
        return {name: value + 0.1 * gradients[name] for name, value in parameters.items()}, state


class Mixing(InnerMomentum):
    """Shares a velocity between tasks."""

    def forward(self, parameters, gradients, state, step):
        mixed = {
            name: grad.mean(0, keepdim=True).expand_as(grad) if grad.ndim else grad
            for name, grad in gradients.items()
        }
        return super().forward(parameters, mixed, state, step)


class Inventing(Descent):
    def forward(self, parameters, gradients, state, step):
        moved, state = super().forward(parameters, gradients, state, step)
        return moved | {"other": torch.zeros(())}, state


class Detaching(Descent):
    def forward(self, parameters, gradients, state, step):
        return super().forward({k: v.detach() for k, v in parameters.items()}, gradients, state, step)


class BareRoot(InnerAdam):
    def forward(self, parameters, gradients, state, step):
        return {
            name: value - 0.01 * gradients[name].square().sqrt() for name, value in parameters.items()
        }, state


class Limited(Descent):
    def forward(self, parameters, gradients, state, step):
        moved, state = super().forward(parameters, gradients, state, step)
        return {name: value / (step < 3) for name, value in moved.items()}, state


class Unsaved(Descent):
    def __init__(self):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, parameters, gradients, state, step):
        return {name: value - self.rate * gradients[name] for name, value in parameters.items()}, state

    def _load_from_state_dict(self, *args):
        pass


@pytest.mark.parametrize(
    ("update", "law"),
    [
        (InPlace, "it changes no argument and repeats itself"),
        (Uphill, "it goes down, in shape and type"),
        (Mixing, "tasks stacked are tasks alone"),
        (Inventing, "what has no gradient is left out"),
        (Detaching, "its derivatives are those of differences"),
        (BareRoot, "zero gradients have finite derivatives"),
        (Limited, "it goes on after the steps it was prepared for"),
        (Unsaved, "a fresh one resumes from the state"),
    ],
)
def test_inner_updates(update, law):
    checks = {check.name: check for check in inner_update_checks(COMPONENT, update)}
    with pytest.raises((AssertionError, ZeroDivisionError, RuntimeError)):
        checks[law]()


class Summing(MAML):
    def loss(self, episodes):
        return super().loss(episodes) * episodes.tasks


class Ascending(MAML):
    """Its gradient points the other way."""

    def loss(self, episodes):
        loss = super().loss(episodes)
        return 2 * loss.detach() - loss


class OneStepShort(MAML):
    def adapt(self, support_x, support_y, *, steps=None):
        return super().adapt(support_x, support_y, steps=1)


class Nameless(MAML):
    def adapt(self, support_x, support_y, *, steps=None):
        module = super().adapt(support_x, support_y, steps=steps)
        module.classes = None
        return module


class Literal(MAML):
    """Takes labels as columns, whatever they are."""

    def predict(self, episodes):
        return super().predict(episodes) + episodes.support_y[0, 0]


class Ordered(MAML):
    def predict(self, episodes):
        return super().predict(episodes) + episodes.support_x[:, :1, :1]


class Changing(MAML):
    def predict(self, episodes):
        with torch.no_grad():
            self.network[0].bias.add_(0.1)
        return super().predict(episodes)


class Tracking(MAML):
    """Needs the gradients that inference mode lacks."""

    def predict(self, episodes):
        outputs = self.network(episodes.query_x)
        return torch.autograd.grad(outputs.sum(), self.network[0].bias, create_graph=True)[0]


class Forgetful(MAML):
    def _load_from_state_dict(self, *args):
        pass

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize(
    ("learner", "law"),
    [
        (Summing, "loss and gradient are means over the tasks"),
        (Ascending, "twenty steps lower the loss"),
        (OneStepShort, "predictions are those of the adapted module"),
        (Nameless, "names are classes in sorted order"),
        (Literal, "columns follow sorted labels"),
        (Ordered, "the order of the support set does not matter"),
        (Changing, "predicting changes nothing"),
        (Tracking, "predictions need no gradients"),
        (Forgetful, "a fresh one resumes from the state"),
    ],
)
def test_learners(learner, law):
    checks = {check.name: check for check in few_shot_learner_checks(COMPONENT, learner)}
    with pytest.raises((AssertionError, RuntimeError)):
        checks[law]()
