"""What every multi-task model obeys, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable

import multi_task_models
import pytest
import torch
from multi_task_models import MODELS, OUTPUTS, TASKS, WIDTH
from torch import Tensor, nn

from athena_multitask import MultiTask, MultiTaskModel, PCGrad, TaskRows, balance

Build = Callable[..., MultiTask]
every_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)


def loss_of(predictions: dict[str, Tensor]) -> Tensor:
    return torch.stack([prediction.square().mean() for prediction in predictions.values()]).sum()


def with_gradient(model: nn.Module) -> set[nn.Parameter]:
    return {parameter for parameter in model.parameters() if parameter.grad is not None}


@every_model
@pytest.mark.parametrize("rows", [1, 9])
def test_each_task_gets_its_prediction(build: Build, rows: int) -> None:
    predictions = build()(torch.randn(rows, WIDTH))
    assert {name: tuple(found.shape) for name, found in predictions.items()} == {
        name: (rows, size) for name, size in OUTPUTS.items()
    }


@every_model
def test_a_subset_predicts_as_all_do_in_the_order_asked_for(build: Build) -> None:
    model, x = build(), torch.randn(4, WIDTH)
    everything, some = model(x), model(x, tasks=["flat", "near"])
    assert list(some) == ["flat", "near"]
    for name, prediction in some.items():
        torch.testing.assert_close(prediction, everything[name])


@every_model
def test_parameters_are_shared_if_more_than_one_loss_reaches_them(build: Build) -> None:
    model, x = build(), torch.randn(4, WIDTH)
    reached: dict[str, set[nn.Parameter]] = {}
    for name in TASKS:
        model.zero_grad()
        loss_of(model(x, tasks=[name])).backward()
        reached[name] = with_gradient(model)
    for name in TASKS:
        others = set().union(*(reached[other] for other in TASKS if other != name))
        assert set(model.task_parameters(name)) == reached[name] - others
    parts = [*model.shared_parameters(), *(each for name in TASKS for each in model.task_parameters(name))]
    assert len(parts) == len(set(parts))
    assert set(parts) == set(model.parameters())


@every_model
def test_missing_tasks_get_no_gradient(build: Build) -> None:
    model = build()
    loss_of(model(torch.randn(4, WIDTH), tasks=["far"])).backward()
    for name in ("near", "flat"):
        assert all(parameter.grad is None for parameter in model.task_parameters(name))
    assert with_gradient(model) == {*model.shared_parameters(), *model.task_parameters("far")}


@every_model
def test_rows_of_a_mixed_batch_are_as_in_a_batch_of_all(build: Build) -> None:
    model, x = build(), torch.randn(9, WIDTH)
    task_ids = torch.tensor([2, 0, 2, 2, 0, 0, 2, 0, 2])  # none of "far"
    everything, mixed, rows = model(x), model(x, task_ids=task_ids), model.rows(task_ids)
    assert list(mixed) == list(rows) == ["near", "flat"]
    for name, prediction in mixed.items():
        torch.testing.assert_close(prediction, everything[name][rows[name]])
    loss_of(mixed).backward()
    assert all(parameter.grad is None for parameter in model.task_parameters("far"))
    assert all(parameter.grad is not None for parameter in model.task_parameters("flat"))


@every_model
def test_a_mixed_batch_of_which_some_tasks_are_asked_for(build: Build) -> None:
    model, x = build(), torch.randn(4, WIDTH)
    mixed = model(x, tasks=["flat", "far"], task_ids=torch.tensor([0, 1, 0, 1]))
    assert {name: len(rows) for name, rows in mixed.items()} == {"far": 2}
    assert model(x, tasks=["flat"], task_ids=torch.tensor([0, 1, 0, 1])) == {}
    assert model(x[:0], task_ids=torch.empty(0, dtype=torch.long)) == {}


@pytest.mark.parametrize("kind", ["hard", "mmoe", "mtan", "film"])
def test_the_order_of_tasks_changes_nothing(kind: str) -> None:
    model, turned, x = MODELS[kind](TASKS), MODELS[kind](TASKS[::-1]), torch.randn(4, WIDTH)
    turned.load_state_dict(model.state_dict())
    assert turned.tasks == TASKS[::-1]
    for name, prediction in turned(x).items():
        torch.testing.assert_close(prediction, model(x)[name])


@pytest.mark.parametrize("kind", ["cross-stitch", "channel-stitch"])
def test_a_checkpoint_in_another_order_is_refused_where_places_count(kind: str) -> None:
    with pytest.raises(ValueError, match=r"checkpoint must be of the tasks \['flat', 'far', 'near'\]"):
        MODELS[kind](TASKS[::-1]).load_state_dict(MODELS[kind](TASKS).state_dict())


@every_model
def test_a_checkpoint_gives_the_same_model(build: Build) -> None:
    model, other, x = build(), build(), torch.randn(4, WIDTH)
    other.load_state_dict(model.state_dict())
    for name, prediction in other(x).items():
        assert torch.equal(prediction, model(x)[name])


@every_model
def test_one_task_and_fifty(build: Build) -> None:
    for count in (1, 50):
        names = [f"task-{place}" for place in range(count)]
        if count == 50 and build in (multi_task_models.ple, multi_task_models.one_layer):
            names = names[:6]  # the example gives the last task as many experts
        model = build(names)
        predictions = model(torch.randn(3, WIDTH))
        assert tuple(predictions) == model.tasks == tuple(names)
        loss_of(predictions).backward()
        assert with_gradient(model) == set(model.parameters())


def test_decay_leaves_the_heads_of_missing_tasks() -> None:
    """Gradients that were zero, not none, would have weight decay and momentum move them."""
    model = MODELS["hard"]()
    optimizer = torch.optim.AdamW(model.parameter_groups(), lr=0.1, weight_decay=0.1)
    task_ids = torch.tensor([0, 1, 2, 2])
    for step in range(3):
        kept = copy.deepcopy(model.heads["flat"].state_dict())
        optimizer.zero_grad()
        loss_of(model(torch.randn(4, WIDTH), task_ids=task_ids.clamp(max=2 - min(step, 1)))).backward()
        optimizer.step()
        same = [torch.equal(value, kept[name]) for name, value in model.heads["flat"].state_dict().items()]
        assert same == [step > 0] * 2


@pytest.mark.parametrize("kind", ["hard", "mmoe", "ple", "cross-stitch", "mtan", "film"])
def test_compiled_without_breaks(kind: str) -> None:
    torch.compiler.reset()  # all models share the code of one `forward`, of which few versions are kept
    model, x = MODELS[kind](), torch.randn(4, WIDTH)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for name, prediction in compiled(x, tasks=("flat", "near")).items():
        torch.testing.assert_close(prediction, model(x)[name])


def test_compiled_with_rows_of_several_tasks() -> None:
    torch.compiler.reset()
    model, x = MODELS["hard"](), torch.randn(4, WIDTH)
    compiled = torch.compile(model, backend="eager")
    for ids in ([0, 1, 1, 2], [2, 2, 2, 2]):
        task_ids = torch.tensor(ids)
        found, expected = compiled(x, task_ids=task_ids), model(x, task_ids=task_ids)
        assert list(found) == list(expected)
        for name, prediction in found.items():
            torch.testing.assert_close(prediction, expected[name])


@every_model
def test_mixed_precision(build: Build) -> None:
    model, x = build(), torch.randn(4, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halves = model(x, task_ids=torch.tensor([0, 1, 2, 2]))
    rows = model.rows(torch.tensor([0, 1, 2, 2]))
    loss_of({name: half.float() for name, half in halves.items()}).backward()
    for name, half in halves.items():
        assert half.dtype == torch.bfloat16
        # bfloat16 has 8 bits, lost anew in each of up to a dozen layers
        torch.testing.assert_close(half.float(), model(x)[name][rows[name]], atol=0.05, rtol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@every_model
def test_wholly_in_half_precision(build: Build) -> None:
    model = build().to(torch.bfloat16)
    predictions = model(torch.randn(4, WIDTH, dtype=torch.bfloat16))
    assert {prediction.dtype for prediction in predictions.values()} == {torch.bfloat16}


@every_model
def test_heads_are_balanced_as_in_plain_training(build: Build) -> None:
    model, x = build(), torch.randn(6, WIDTH)
    plain = copy.deepcopy(model)
    loss_of(plain(x)).backward()
    losses = {name: prediction.square().mean() for name, prediction in model(x).items()}
    balance(losses, shared=model.shared_parameters(), method=PCGrad(seed=0))
    for name in TASKS:
        for ours, theirs in zip(model.task_parameters(name), plain.task_parameters(name), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
    assert with_gradient(model) == set(model.parameters())


def test_groups_for_an_optimizer() -> None:
    model = MultiTaskModel(nn.Linear(2, 2), {"a": nn.Linear(2, 1), "b": nn.Identity()})
    groups = model.parameter_groups()
    assert [(group["task"], len(group["params"])) for group in groups] == [(None, 2), ("a", 2)]
    for group in groups:
        group["lr"] = 0.1 if group["task"] is None else 0.2
    optimizer = torch.optim.SGD(groups)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]


def test_what_heads_have_in_common_is_shared() -> None:
    tied, inner = nn.Linear(2, 2), nn.Linear(2, 2)
    model = MultiTaskModel(
        nn.Identity(),
        {
            "a": nn.Sequential(tied, nn.Linear(2, 1)),
            "b": tied,
            "c": inner,
            "d": nn.Sequential(inner, nn.ReLU()),
        },
    )
    assert set(model.shared_parameters()) == {*tied.parameters(), *inner.parameters()}
    assert [tuple(each.shape) for each in model.task_parameters("a")] == [(1, 2), (1,)]
    assert model.task_parameters("b") == model.task_parameters("c") == model.task_parameters("d") == []


def test_a_weight_tied_between_encoder_and_head_is_shared() -> None:
    encoder, head = nn.Linear(3, 3), nn.Linear(3, 3)
    head.weight = encoder.weight
    model = MultiTaskModel(encoder, {"a": head})
    assert model.task_parameters("a") == [head.bias]
    assert model.shared_parameters() == [encoder.weight, encoder.bias]


def test_an_encoder_of_several_outputs() -> None:
    class Pyramid(nn.Module):
        def forward(self, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
            return {"levels": (x, 2 * x)}

    class Second(nn.Module):
        def forward(self, found: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
            return found["levels"][1]

    model = MultiTaskModel(Pyramid(), {"a": Second(), "b": Second()})
    x = torch.arange(3.0)[:, None]
    assert torch.equal(model(x)["b"], 2 * x)
    mixed = model(x, task_ids=torch.tensor([1, 0, 1]))
    assert {name: rows.flatten().tolist() for name, rows in mixed.items()} == {"a": [2.0], "b": [0.0, 4.0]}


def test_rows_are_in_the_order_of_the_batch() -> None:
    rows = TaskRows(torch.tensor([1, 0, 1, 1, 0], dtype=torch.uint8), ["a", "b", "c"])
    assert {name: found.tolist() for name, found in rows.indices.items()} == {"a": [1, 4], "b": [0, 2, 3]}
    assert rows.split(torch.arange(5))["b"].tolist() == [0, 2, 3]


@pytest.mark.parametrize("task_ids", [[3], [-1], [0, 7]])
def test_identifiers_out_of_range(task_ids: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"`task_ids` must lie in \[0, 3\).*got {task_ids[-1]}\."):
        TaskRows(torch.tensor(task_ids), TASKS)


@every_model
@pytest.mark.parametrize("count", [3, 5])
def test_identifiers_are_of_all_rows(build: Build, count: int) -> None:
    with pytest.raises(ValueError, match=rf"`task_ids` must be of each row of a batch of 4; got {count}\."):
        build()(torch.randn(4, WIDTH), task_ids=torch.zeros(count, dtype=torch.long))


@pytest.mark.parametrize("task_ids", [torch.zeros(2, 3, dtype=torch.long), torch.zeros(2), torch.ones(2) > 0])
def test_identifiers_that_are_none(task_ids: Tensor) -> None:
    with pytest.raises(ValueError, match="`task_ids` must be a whole number a row"):
        TaskRows(task_ids, TASKS)


def test_features_that_have_no_rows() -> None:
    with pytest.raises(TypeError, match=r"features must be tensors.*got int"):
        TaskRows(torch.tensor([0]), TASKS).split(3)


@every_model
def test_an_unknown_task_names_the_nearest(build: Build) -> None:
    model = build()
    with pytest.raises(ValueError, match=r"got 'naer'\. Did you mean 'near'\?"):
        model(torch.ones(1, WIDTH), tasks=["far", "naer"])
    with pytest.raises(ValueError, match=r"got 'xyz'\. Its tasks: near, far, flat"):
        model.task_parameters("xyz")


@pytest.mark.parametrize("tasks", ["near", []])
def test_tasks_that_are_no_names(tasks: list[str]) -> None:
    with pytest.raises(ValueError, match="`tasks` must be names of tasks"):
        MODELS["hard"]()(torch.ones(1, WIDTH), tasks=tasks)


@pytest.mark.parametrize("name", ["a.b", "", "items", "training", "type", 3])
def test_names_that_no_module_can_have(name: str) -> None:
    with pytest.raises(ValueError, match=f"`heads` must have names.*got {name!r}"):
        MultiTaskModel(nn.Identity(), {name: nn.Identity()})


def test_no_head() -> None:
    with pytest.raises(ValueError, match="`heads` must hold a module for each task; got none"):
        MultiTaskModel(nn.Identity(), {})
