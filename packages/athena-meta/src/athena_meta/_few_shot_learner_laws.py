"""The laws of few-shot learners: what the conformance kit asks of each."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from athena_core import Component
from athena_core.testing import Check
from athena_meta._episodes import Episodes
from athena_meta._learner import FewShotLearner

LearnerFactory = type[FewShotLearner]

TASKS, WAYS, INPUTS = 3, 3, 4
NAMES = ("ant", "bee", "cow")


def episodes(*, seed: int = 0, k_shot: int = 2, n_query: int = 3) -> Episodes:
    """Classes around points of their own, ``TASKS`` tasks of ``WAYS`` ways, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(TASKS, WAYS, INPUTS, generator=generator, dtype=torch.float64)

    def drawn(each: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(WAYS).repeat(each)[torch.randperm(WAYS * each, generator=generator)]
        noise = torch.randn(TASKS, len(y), INPUTS, generator=generator, dtype=torch.float64)
        return centres[:, y] + 0.3 * noise, y.expand(TASKS, -1).clone()

    return Episodes(*drawn(k_shot), *drawn(n_query), classes=torch.arange(WAYS).expand(TASKS, -1))


def _learner(target: LearnerFactory) -> FewShotLearner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, WAYS))
        return target.around(network, outputs=WAYS).double().eval()


def example_few_shot_learner(target: LearnerFactory) -> FewShotLearner:
    """A learner around a network of four inputs and three outputs."""
    return _learner(target)


def _gradients(learner: FewShotLearner, batch: Episodes) -> list[Tensor]:
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(learner.loss(batch), trained, allow_unused=True)
    return [torch.zeros_like(p) if grad is None else grad for p, grad in zip(trained, found, strict=True)]


def _close(ours: object, other: object) -> None:
    torch.testing.assert_close(ours, other, rtol=1e-8, atol=1e-10)


def _means_over_tasks(target: LearnerFactory) -> None:
    learner, batch = _learner(target), episodes()
    parts = [*batch.split(1)]
    loss = learner.loss(batch)
    assert loss.ndim == 0, f"the loss has the shape {tuple(loss.shape)}"
    _close(loss.detach(), torch.stack([learner.loss(part).detach() for part in parts]).mean())
    each = [_gradients(learner, part) for part in parts]
    means = [torch.stack(grads).mean(0) for grads in zip(*each, strict=True)]
    _close(_gradients(learner, batch), means)
    assert any(bool(grad.any()) for grad in means), "the loss has no gradient"


def _learns(target: LearnerFactory) -> None:
    learner, batch = _learner(target).train(), episodes()
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.02)
    before = learner(batch).detach()
    for _ in range(20):
        optimizer.zero_grad()
        learner(batch).backward()
        optimizer.step()
    assert bool(learner(batch) < before), "the loss did not go down"


def _predictions_are_the_adapted_module_s(target: LearnerFactory) -> None:
    learner, batch = _learner(target), episodes()
    outputs = learner.predict(batch)
    assert outputs.shape == (TASKS, batch.query_x.shape[1], WAYS), f"predictions are {tuple(outputs.shape)}"
    for task in range(TASKS):
        adapted = learner.adapt(batch.support_x[task], batch.support_y[task])
        _close(adapted(batch.query_x[task]).detach(), outputs[task].detach())
    _close(learner.predict_by_step(batch)[-1].detach(), outputs.detach())


def _adapts_to_names(target: LearnerFactory) -> None:
    learner, batch = _learner(target), episodes()
    x, y = batch.support_x[0], batch.support_y[0]
    numbered = learner.adapt(x, y)
    named = learner.adapt(x, [NAMES[label] for label in y.tolist()])
    assert named.classes == NAMES, f"classes are {named.classes}"
    assert numbered.classes == (0, 1, 2), f"classes are {numbered.classes}"
    _close(named(x).detach(), numbered(x).detach())


def _columns_follow_sorted_labels(target: LearnerFactory) -> None:
    learner, batch = _learner(target), episodes()
    other = batch._replace(support_y=10 + 5 * batch.support_y, query_y=10 + 5 * batch.query_y)
    _close(learner.predict(other).detach(), learner.predict(batch).detach())
    _close(learner.loss(other).detach(), learner.loss(batch).detach())


def _forgets_the_order_of_the_support(target: LearnerFactory) -> None:
    learner, batch = _learner(target), episodes()
    order = torch.randperm(batch.support_x.shape[1], generator=torch.Generator().manual_seed(1))
    other = batch._replace(support_x=batch.support_x[:, order], support_y=batch.support_y[:, order])
    _close(learner.predict(other).detach(), learner.predict(batch).detach())


def _predicting_changes_nothing(target: LearnerFactory) -> None:
    learner, batch = _learner(target), episodes()
    for training in (True, False):
        learner.train(training)
        before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
        modes = [module.training for module in learner.modules()]
        learner.predict(batch)
        learner.predict_by_step(batch)
        adapted = learner.adapt(batch.support_x[0], batch.support_y[0])
        with torch.no_grad():
            for parameter in adapted.parameters():
                parameter.zero_()
        assert modes == [module.training for module in learner.modules()], "train or eval mode changed"
        for name, tensor in learner.state_dict().items():
            assert torch.equal(tensor, before[name]), f"{name} changed"
        assert all(parameter.grad is None for parameter in learner.parameters()), "gradients are left"


def _predicts_without_gradients(target: LearnerFactory) -> None:
    learner, batch = _learner(target), episodes()
    expected = learner.predict(batch).detach()
    with torch.no_grad():
        _close(learner.predict(batch), expected)
    with torch.inference_mode():
        _close(learner.predict(Episodes(*(part * 1 for part in batch if part is not None))), expected)


def _resumes(target: LearnerFactory) -> None:
    learner, batch = _learner(target), episodes()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.01)
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    fresh = _learner(target)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    _close(fresh.predict(batch).detach(), learner.predict(batch).detach())


def few_shot_learner_checks(component: Component, target: LearnerFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of a learner that can be made around a network."""
    laws = {
        "loss and gradient are means over the tasks": _means_over_tasks,
        "twenty steps lower the loss": _learns,
        "predictions are those of the adapted module": _predictions_are_the_adapted_module_s,
        "names are classes in sorted order": _adapts_to_names,
        "columns follow sorted labels": _columns_follow_sorted_labels,
        "the order of the support set does not matter": _forgets_the_order_of_the_support,
        "predicting changes nothing": _predicting_changes_nothing,
        "predictions need no gradients": _predicts_without_gradients,
        "a fresh one resumes from the state": _resumes,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))
