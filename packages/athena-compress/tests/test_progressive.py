"""Progressive distillation: stages, freezing, resuming, and the published schedules made of them."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from athena_compress import (
    Distiller,
    ProgressiveDistiller,
    Stage,
    assistant_chain,
    born_again,
    fresh_copy,
    layer_by_layer,
    teacher_annealing,
)

FEATURES = {"0": "0", "2": "2", "4": "4"}


def deep() -> nn.Sequential:
    """Three blocks, the second with batch statistics, and a head."""
    return nn.Sequential(
        nn.Linear(4, 5),
        nn.Tanh(),
        nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)),
        nn.Tanh(),
        nn.Linear(5, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
    )


def distiller(**options) -> Distiller:
    return Distiller(deep(), deep(), features=FEATURES, **options)


def batch(step: int):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(6, 4, generator=generator), torch.randint(3, (6,), generator=generator)


def train(progressive: ProgressiveDistiller, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        progressive.distiller.train()
        optimizer.zero_grad()
        loss = progressive.loss(*batch(step)).total
        loss.backward()
        optimizer.step()
        progressive.step()
        losses.append(loss.item())
    return losses


def moved(student: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """The numbers of the blocks of which a parameter or a buffer has changed."""
    return {
        name.split(".")[0]
        for name, value in student.state_dict().items()
        if not torch.equal(value, before[name])
    }


class TestStages:
    def test_settings_hold_from_the_first_step_to_the_last_and_stay(self):
        wrapped = distiller(alpha=0.6, feature_weight=2.0, output_weight=3.0)
        stages = [
            Stage(steps=2, features=("0",), output=False),
            Stage(steps=1, alpha=0.1),
            Stage(steps=2, features=(), alpha=(1.0, 0.0)),
        ]
        progressive = ProgressiveDistiller(wrapped, stages)
        seen = []
        for _ in range(7):
            weights = tuple(wrapped.feature_weights.values())
            seen.append((progressive.stage, progressive.done, weights, wrapped.output_weight, wrapped.alpha))
            progressive.step()
        assert seen == [
            (0, False, (2.0, 0.0, 0.0), 0.0, 0.6),
            (0, False, (2.0, 0.0, 0.0), 0.0, 0.6),
            (1, False, (2.0, 2.0, 2.0), 3.0, 0.1),
            (2, False, (0.0, 0.0, 0.0), 3.0, 1.0),
            (2, False, (0.0, 0.0, 0.0), 3.0, 0.5),
            (2, True, (0.0, 0.0, 0.0), 3.0, 0.0),
            (2, True, (0.0, 0.0, 0.0), 3.0, 0.0),
        ]

    def test_what_a_stage_freezes_stays_statistics_too_and_learns_again_later(self):
        progressive = ProgressiveDistiller(
            distiller(), [Stage(steps=2), Stage(steps=2, freeze=["0", "2"]), Stage(steps=1)]
        )
        student = progressive.distiller.student
        # Momentum and decay move a parameter that has a gradient left over.
        optimizer = torch.optim.AdamW(progressive.distiller.parameters(), weight_decay=0.1)
        for steps, expected in (
            (range(2), {"0", "2", "4", "6"}),
            (range(2, 4), {"4", "6"}),
            (range(4, 5), {"0", "2", "4", "6"}),
        ):
            before = copy.deepcopy(student.state_dict())
            train(progressive, optimizer, steps)
            assert moved(student, before) == expected
        assert all(module.training for module in student.modules())

    def test_what_was_frozen_before_stays_frozen(self):
        wrapped = distiller()
        wrapped.student[4].requires_grad_(False)
        progressive = ProgressiveDistiller(wrapped, [Stage(steps=1, freeze="0"), Stage(steps=1)])
        progressive.step()
        assert wrapped.student[0].weight.requires_grad
        assert not wrapped.student[4].weight.requires_grad

    def test_frozen_while_zero_grad_keeps_the_gradients(self):
        progressive = ProgressiveDistiller(distiller(), [Stage(steps=1), Stage(steps=1, freeze="0")])
        student = progressive.distiller.student
        optimizer = torch.optim.SGD(progressive.distiller.parameters(), lr=0.1, momentum=0.9)
        train(progressive, optimizer, range(1))
        assert student[0].weight.grad is None
        before = student[0].weight.detach().clone()
        optimizer.zero_grad(set_to_none=False)
        progressive.loss(*batch(1)).total.backward()
        optimizer.step()
        assert torch.equal(student[0].weight, before)

    @pytest.mark.parametrize("cut", [1, 3, 4, 6])
    def test_resumed_equals_uninterrupted(self, cut):
        stages = [*layer_by_layer(FEATURES, steps=1, output_steps=1), *teacher_annealing(4)]

        def start(models):
            progressive = ProgressiveDistiller(models, stages)
            return progressive, torch.optim.AdamW(models.parameters(), lr=1e-2)

        first = distiller()
        whole, optimizer = start(copy.deepcopy(first))
        expected = train(whole, optimizer, range(8))
        progressive, optimizer = start(first)
        losses = train(progressive, optimizer, range(cut))
        file = io.BytesIO()
        parts = (first, optimizer, progressive)
        torch.save([part.state_dict() for part in parts], file)
        file.seek(0)
        again = distiller()
        again.teacher.load_state_dict(first.teacher.state_dict())
        progressive, optimizer = start(again)
        for part, state in zip(
            (again, optimizer, progressive), torch.load(file, weights_only=True), strict=True
        ):
            part.load_state_dict(state)
        assert losses + train(progressive, optimizer, range(cut, 8)) == expected

    def test_errors(self):
        with pytest.raises(ValueError, match="`stages` must hold at least one stage; got none"):
            ProgressiveDistiller(distiller(), [])
        with pytest.raises(ValueError, match="`steps` must be at least 1; got 0"):
            Stage(steps=0)
        with pytest.raises(ValueError, match=r"`alpha` must lie in \[0, 1\]; got 1.5"):
            Stage(steps=1, alpha=(1.5, 0.0))
        with pytest.raises(ValueError, match=r"`features` of a stage must be .*got \['9'\]"):
            ProgressiveDistiller(distiller(), [Stage(steps=1, features=("9",))])
        with pytest.raises(ValueError, match=r"`freeze`: the pattern 'x.\*' must match"):
            ProgressiveDistiller(distiller(), [Stage(steps=1, freeze="x.*")])
        state = ProgressiveDistiller(distiller(), [Stage(steps=2)]).state_dict()
        with pytest.raises(ValueError, match=r"must be of stages of \[1\] steps; got \[2\]"):
            ProgressiveDistiller(distiller(), [Stage(steps=1)]).load_state_dict(state)


class TestLayerByLayer:
    @pytest.mark.parametrize("freeze", [True, False])
    def test_each_stage_teaches_the_student_up_to_its_layer(self, freeze):
        progressive = ProgressiveDistiller(
            distiller(), layer_by_layer(FEATURES, steps=2, output_steps=2, freeze=freeze)
        )
        student = progressive.distiller.student
        optimizer = torch.optim.SGD(progressive.distiller.parameters(), lr=0.1)
        blocks = (
            [{"0"}, {"2"}, {"4"}, {"0", "2", "4", "6"}]
            if freeze
            else [{"0"}, {"0", "2"}, {"0", "2", "4"}, {"0", "2", "4", "6"}]
        )
        for stage, expected in enumerate(blocks):
            before = {name: value.detach().clone() for name, value in student.named_parameters()}
            train(progressive, optimizer, range(2 * stage, 2 * stage + 2))
            changed = {
                n.split(".")[0] for n, v in student.named_parameters() if not torch.equal(v, before[n])
            }
            assert changed == expected
        assert progressive.done

    def test_the_stem_stays_with_the_first_layer(self):
        stages = layer_by_layer({"2": "2", "4": "4"}, steps=1, output_steps=1, stem="0")
        assert [stage.freeze for stage in stages] == [(), ("0", "2"), ()]

    def test_no_features(self):
        with pytest.raises(ValueError, match="`features` must hold at least one pair; got none"):
            layer_by_layer({}, steps=1, output_steps=1)


def test_annealing_has_exact_ends_and_is_straight():
    progressive = ProgressiveDistiller(distiller(), teacher_annealing(10, start=0.9, end=0.3))
    alphas = []
    for _ in range(12):
        alphas.append(progressive.distiller.alpha)
        progressive.step()
    assert alphas[0] == 0.9
    assert alphas[10:] == [0.3, 0.3]
    assert alphas[:11] == pytest.approx([0.9 - 0.06 * step for step in range(11)])


class TestAssistantChain:
    def test_each_learns_from_the_one_before(self):
        models = [nn.Linear(2, 2).train() for _ in range(4)]
        links = []

        def train(teacher, student):
            assert not teacher.training
            links.append((models.index(teacher), models.index(student)))

        assert assistant_chain(models, train) is models[3]
        assert links == [(0, 1), (1, 2), (2, 3)]
        links.clear()
        assistant_chain(models, train, begin=2)
        assert links == [(2, 3)]

    def test_errors(self):
        model = nn.Linear(2, 2)
        for models in ([model], [model, model]):
            with pytest.raises(ValueError, match="`models` must be a teacher and one or more other models"):
                assistant_chain(models, lambda teacher, student: None)
        with pytest.raises(ValueError, match=r"`begin` must lie in \[0, 1\]; got 2"):
            assistant_chain([model, nn.Linear(2, 2)], lambda teacher, student: None, begin=2)


class TestBornAgain:
    def test_each_generation_is_fresh_and_learns_from_the_last(self):
        teacher = deep()
        taught = []
        students = born_again(teacher, lambda t, s: taught.append((t, s)), generations=3)
        assert [pair[0] for pair in taught] == [teacher, *students[:2]]
        assert [pair[1] for pair in taught] == students
        assert len({id(model) for model in [teacher, *students]}) == 4
        assert not teacher.training
        for student in students:
            assert student(torch.randn(3, 4)).shape == (3, 3)
            assert not torch.equal(student[0].weight, teacher[0].weight)

    def test_a_fresh_copy_starts_anew_and_the_model_stays(self):
        model = deep()
        model(torch.randn(9, 4)).sum().backward()
        model.requires_grad_(False).eval()
        before = copy.deepcopy(model.state_dict())
        fresh = fresh_copy(model)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
        assert not fresh[2][1].running_mean.any()
        assert fresh.training
        assert all(p.requires_grad and p.grad is None for p in fresh.parameters())
        assert {"0", "2", "4", "6"} == moved(fresh, before)

    def test_shared_weights_stay_shared(self):
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        model[1].weight = model[0].weight
        fresh = fresh_copy(model)
        assert fresh[0].weight is fresh[1].weight
        assert fresh[0].weight is not model[0].weight

    def test_a_transformer_layer(self):
        model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        fresh = fresh_copy(model)
        assert not torch.equal(fresh.self_attn.in_proj_weight, model.self_attn.in_proj_weight)

    def test_modules_that_cannot_start_anew_and_how_to_make_a_student(self):
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(3))

        model = nn.Sequential(nn.Linear(3, 3), Own())
        with pytest.raises(ValueError, match=r"have none: 1 \(Own\). Pass `make`"):
            born_again(model, lambda teacher, student: None)
        students = born_again(model, lambda teacher, student: None, make=lambda: nn.Linear(3, 3))
        assert isinstance(students[0], nn.Linear)

    def test_no_generations(self):
        with pytest.raises(ValueError, match="`generations` must be at least 1; got 0"):
            born_again(nn.Linear(2, 2), lambda teacher, student: None, generations=0)
