"""What MAML refuses, and in which words."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from gradient_models import DOUBLE, classes, curves, gradients, mlp, normed
from torch import nn

from athena_core import NotFinite
from athena_meta import MAML, Episodes

MODES = ["vmap", "loop", "auto"]


def test_batch_norm_needs_a_choice():
    with pytest.raises(ValueError, match=r"`transductive` must be True or False .* got None"):
        MAML(normed())
    MAML(mlp(), transductive=None)


def test_batch_norm_across_processes():
    with pytest.raises(ValueError, match=r"got SyncBatchNorm. Use BatchNorm"):
        MAML(nn.Sequential(nn.SyncBatchNorm(3), nn.Linear(3, 2)), transductive=True)


def test_running_statistics_of_instance_norm():
    with pytest.raises(ValueError, match=r"which adaptation never writes: 0. Pass track_running_stats=False"):
        MAML(nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True), nn.Linear(4, 2)))
    MAML(nn.Sequential(nn.InstanceNorm1d(3), nn.Linear(4, 2)))


def test_lazy_parameters():
    with pytest.raises(ValueError, match=r"got the lazy weight, bias. Run it on one batch"):
        MAML(nn.LazyLinear(3))


def test_nothing_to_adapt():
    with pytest.raises(ValueError, match=re.escape("`adapted` must match a parameter")):
        MAML(mlp(), adapted=("head.*",))
    with pytest.raises(ValueError, match=re.escape("`adapted` must match a parameter")):
        MAML(mlp().requires_grad_(False))


@pytest.mark.parametrize("inner_lr", [-0.1, float("nan"), float("inf")])
def test_rates(inner_lr):
    with pytest.raises(ValueError, match="`inner_lr` must be finite and at least 0"):
        MAML(mlp(), inner_lr=inner_lr)


def test_steps():
    with pytest.raises(ValueError, match="`inner_steps` must be at least 0; got -1"):
        MAML(mlp(), inner_steps=-1)
    with pytest.raises(ValueError, match="`steps` must be at least 0; got -1"):
        MAML(mlp()).predict_by_step(classes(), -1)
    with pytest.raises(ValueError, match="`steps` must be at least 0; got -1"):
        MAML(mlp()).adapt(classes().support_x[0], classes().support_y[0], steps=-1)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_second_order_of_a_compiled_network(mode, inside):
    network, episodes = mlp(), classes(tasks=2)
    first = MAML(network, mode=mode, first_order=True)
    expected = gradients(first, episodes)
    (network[0] if inside else network).compile(backend="aot_eager")
    with pytest.raises(ValueError, match="must not be compiled at second order"):
        MAML(network, mode=mode).loss(episodes)
    torch.testing.assert_close(gradients(first, episodes), expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler's own, of the loss
def test_a_compiled_training_step_runs_the_learner_as_it_is():
    meta, episodes = MAML(mlp(), mode="vmap"), classes(tasks=2)
    expected = gradients(meta, episodes)
    doubled = torch.compile(lambda episodes: 2 * meta.loss(episodes), backend="aot_eager")
    found = torch.autograd.grad(doubled(episodes), meta.trained())
    torch.testing.assert_close(list(found), [2 * gradient for gradient in expected])


def test_a_network_in_the_wrapping_of_a_compiler():
    meta = MAML(torch.compile(mlp(), backend="eager"), first_order=True)
    with pytest.raises(ValueError, match=r"Compile it in place, by network.compile\(\)"):
        meta.loss(classes())


@pytest.mark.parametrize("mode", MODES)
def test_an_inner_loss_without_gradient(mode):
    def hard(outputs, targets):
        return (outputs.argmax(1) == targets).double().mean()

    with pytest.raises(ValueError, match="must depend on an adapted parameter; got no gradient for any of"):
        MAML(mlp(), loss=hard, mode=mode).loss(classes())

    class Severed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(3, 3).double(), nn.Linear(3, 2).double()

        def forward(self, x):
            return self.head(self.body(x).detach())

    with pytest.raises(ValueError, match=r"got no gradient for any of body.weight, body.bias"):
        MAML(Severed(), adapted="body.*", mode=mode).loss(classes())


@pytest.mark.parametrize("mode", MODES)
def test_a_loss_for_each_example(mode):
    meta = MAML(mlp(), loss=lambda x, y: F.cross_entropy(x, y, reduction="none"), mode=mode)
    with pytest.raises(ValueError, match="one number a task; got the shape"):
        meta.loss(classes())


@pytest.mark.parametrize(
    "way", [*({"mode": mode} for mode in MODES), {"mode": "vmap", "chunk_size": 2}], ids=str
)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_divergence_names_the_step_and_the_task(way, order):
    """Task 3's targets are so far away that its squared error overflows after two steps."""
    episodes = curves(tasks=4)
    far = episodes.support_y.clone()
    far[3] *= 1e50
    meta = MAML(
        nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).double(),
        inner_lr=1.0,
        inner_steps=6,
        loss=F.mse_loss,
        first_order=order == 1,
        **way,
    )
    with torch.set_grad_enabled(order > 0), pytest.raises(NotFinite) as raised:
        meta.loss(episodes._replace(support_y=far))
    assert re.fullmatch(
        r"the loss must be finite; got (inf|nan) after step [1-3] of task 3. Lower `inner_lr`.",
        str(raised.value),
    )
    with pytest.raises(NotFinite, match="of task 3"):
        meta.predict(episodes._replace(support_y=far))
    with pytest.raises(NotFinite, match="of task 0"):
        meta.adapt(episodes.support_x[3], far[3])


@pytest.mark.parametrize("mode", MODES)
def test_inputs_that_are_not_finite(mode):
    episodes = curves()
    episodes.support_x[2, 0, 0] = torch.nan
    with pytest.raises(NotFinite, match=r"got nan after step 0 of task 2. Look at its support set"):
        MAML(mlp(), loss=F.mse_loss, mode=mode).loss(episodes)
    episodes = curves()
    episodes.support_x[2, 0, 0] = torch.inf  # tanh of it is finite, the gradient is not
    with pytest.raises(NotFinite, match=r"got nan after step 1 of task 2. Lower `inner_lr`."):
        MAML(mlp(), loss=F.mse_loss, mode=mode).loss(episodes)
    episodes = curves()
    episodes.query_x[1, 0, 0] = torch.nan
    for work in (MAML(mlp(), loss=F.mse_loss, mode=mode).predict, MAML(mlp(), loss=F.mse_loss, mode=mode)):
        with pytest.raises(NotFinite, match=r"after step 5 of task 1. .*, unless its query set is the cause"):
            work(episodes)


def test_episodes_that_do_not_fit():
    whole = classes()
    with pytest.raises(
        ValueError, match="at least one task, with support and queries; got 0 tasks of 8 and 6"
    ):
        MAML(mlp()).loss(whole.take(0, 0))
    with pytest.raises(ValueError, match="`query_y` must have one label an example"):
        MAML(mlp()).loss(whole._replace(query_x=whole.query_x[:2]))
    for part in ("support", "query"):
        cut = {f"{part}_x": getattr(whole, f"{part}_x")[:, :-1]}
        with pytest.raises(ValueError, match=f"`{part}_y` must have one label an example"):
            MAML(mlp()).loss(whole._replace(**cut))
        empty = {f"{part}_{axis}": getattr(whole, f"{part}_{axis}")[:, :0] for axis in "xy"}
        with pytest.raises(ValueError, match="with support and queries; got 5 tasks of"):
            MAML(mlp()).loss(whole._replace(**empty))
    with pytest.raises(ValueError, match="must have labels of the support set"):
        MAML(mlp()).loss(whole._replace(query_y=whole.query_y + 1))


def test_supports_that_do_not_fit():
    meta = MAML(mlp())
    x = torch.randn(4, 3, dtype=DOUBLE)
    with pytest.raises(ValueError, match="`support_y` must have at least one label"):
        meta.adapt(x[:0], [])
    with pytest.raises(ValueError, match="`support_y` must have one label an example"):
        meta.adapt(x, ["a", "b"])
    with pytest.raises(ValueError, match="all strings or all whole numbers; got int, str"):
        meta.adapt(x, ["a", 1, 2, 3])


def test_regression_targets_are_left_alone():
    episodes = curves()
    meta = MAML(mlp(), loss=F.mse_loss)
    adapted = meta.adapt(episodes.support_x[0], episodes.support_y[0])
    assert not hasattr(adapted, "classes")
    torch.testing.assert_close(adapted(episodes.query_x[0]).detach(), meta.predict(episodes)[0])
    whole = Episodes(*(part.round() for part in episodes[:4]))
    assert meta.loss(whole).isfinite()
