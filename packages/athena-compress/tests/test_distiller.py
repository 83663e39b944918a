"""The distiller: parts and weights, features by name, projections, the teacher kept apart, compilation."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from athena_compress import Distiller, FeatureMSE, cka_loss, distillation_loss, feature_mse, soft_target_loss
from athena_core import AthenaError


class Block(nn.Module):
    """A layer that returns a tuple, as many do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return torch.tanh(self.linear(x)), {"aside": x}


class Tagger(nn.Module):
    """Classes of each token."""

    def __init__(self, width: int, depth: int, classes: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(depth))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, classes)
        self.unused = nn.Linear(1, 1)

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x, _ = layer(x)
        return self.head(self.drop(x))


def convolutional(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * 16, 4),
    )


def vectors(width: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))


TOKENS = torch.arange(12).view(3, 4) % 11
PAIRS = {"layers.3": "layers.1", "embed": "embed"}


def test_called_it_is_the_student():
    student = vectors()
    x = torch.randn(2, 4)
    assert torch.equal(Distiller(vectors(), student)(x), student(x))


def test_the_loss_is_the_weighted_sum_of_its_parts():
    teacher, student = vectors(), vectors()
    distiller = Distiller(
        teacher,
        student,
        alpha=0.7,
        temperature=2.0,
        features={"0": "0", "1": "1"},
        feature_loss={"0": "mse", "1": cka_loss},
        feature_weight={"0": 0.5, "1": 2.0},
        output_weight=3.0,
    )
    x, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, -100])
    losses = distiller.loss(x, labels)
    logits, known = student(x), teacher(x)
    hard, soft = F.cross_entropy(logits, labels), soft_target_loss(logits[:4], known[:4], temperature=2.0)
    mse, cka = (
        feature_mse(student[0](x)[:4], teacher[0](x)[:4]),
        cka_loss(student[:2](x)[:4], teacher[:2](x)[:4]),
    )
    torch.testing.assert_close(losses.hard, hard.detach())
    torch.testing.assert_close(losses.soft, soft.detach())
    torch.testing.assert_close(losses.features, {"0": mse.detach(), "1": cka.detach()})
    torch.testing.assert_close(losses.total, 3 * (0.3 * hard + 0.7 * soft) + 0.5 * mse + 2 * cka)
    torch.testing.assert_close(losses.output, logits)
    parameters = list(student.parameters())
    expected = torch.autograd.grad(3 * (0.3 * hard + 0.7 * soft) + 0.5 * mse + 2 * cka, parameters)
    torch.testing.assert_close(torch.autograd.grad(losses.total, parameters), expected)


def test_without_labels_the_teacher_keeps_its_weight():
    teacher, student = vectors(), vectors()
    x = torch.randn(5, 4)
    losses = Distiller(teacher, student, alpha=0.25).loss(x)
    assert losses.hard is None
    torch.testing.assert_close(losses.total, 0.25 * soft_target_loss(student(x), teacher(x)))


def test_without_features_it_is_the_mixture():
    teacher, student = Tagger(6, 2).eval(), Tagger(4, 1).eval()
    labels = TOKENS % 5
    labels[:, -1] = -100
    mask = torch.ones(3, 4).bool()
    mask[0] = False
    losses = Distiller(teacher, student).eval().loss(TOKENS, labels, mask=mask)
    torch.testing.assert_close(
        losses.total, distillation_loss(student(TOKENS), teacher(TOKENS), labels, mask=mask)
    )


def test_another_hard_loss_and_targets_of_any_form():
    teacher, student = vectors(), vectors()
    x, targets = torch.randn(5, 4), torch.rand(5, 3)
    distiller = Distiller(teacher, student, alpha=0.5, hard_loss=F.binary_cross_entropy_with_logits)
    losses = distiller.loss(x, targets)
    hard = F.binary_cross_entropy_with_logits(student(x), targets)
    torch.testing.assert_close(losses.total, 0.5 * hard + 0.5 * soft_target_loss(student(x), teacher(x)))


def test_images_have_a_class_axis():
    teacher, student = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 5, 1)
    images, labels = torch.randn(2, 3, 4, 4), torch.randint(5, (2, 4, 4))
    labels[0, 0] = 255
    losses = Distiller(teacher, student, class_axis=1, ignore_index=255).loss(images, labels)
    expected = distillation_loss(student(images), teacher(images), labels, class_axis=1, ignore_index=255)
    torch.testing.assert_close(losses.total, expected)


class TestProjections:
    def test_of_sequences_are_linear_and_of_images_convolutions(self):
        distiller = Distiller(Tagger(8, 4), Tagger(6, 2), features=PAIRS, example_inputs=TOKENS)
        assert list(distiller.projections) == list(PAIRS)
        for projection in distiller.projections.values():
            assert isinstance(projection, nn.Linear)
            assert projection.weight.shape == (8, 6)
        images = torch.randn(2, 3, 4, 4)
        distiller = Distiller(convolutional(8), convolutional(5), features={"2": "2"}, example_inputs=images)
        projection = distiller.projections["2"]
        assert isinstance(projection, nn.Conv2d)
        assert projection.weight.shape == (8, 5, 1, 1)
        distiller.loss(images).total.backward()
        assert projection.weight.grad.any()

    def test_are_learned_and_saved_with_the_student_and_the_teacher_is_not(self):
        teacher, student = vectors(6), vectors(4)
        distiller = Distiller(teacher, student, features={"1": "1"}, example_inputs=torch.randn(2, 4))
        own = {id(parameter) for parameter in distiller.parameters()}
        assert own == {
            id(parameter)
            for module in (student, *distiller.projections.values())
            for parameter in module.parameters()
        }
        state = distiller.state_dict()
        assert len(state) == 6
        other = Distiller(vectors(6), vectors(4), features={"1": "1"}, example_inputs=torch.randn(2, 4))
        other.load_state_dict(state)
        x = torch.randn(3, 4)
        assert torch.equal(other(x), distiller(x))
        assert torch.equal(other.projections["1"].weight, distiller.projections["1"].weight)

    def test_are_made_only_where_they_are_needed(self):
        x = torch.randn(2, 4)
        assert not Distiller(vectors(), vectors(), features={"1": "1"}, example_inputs=x).projections
        distiller = Distiller(
            vectors(6), vectors(4), features={"1": "1"}, feature_loss="cka", example_inputs=x
        )
        assert not distiller.projections
        assert Distiller(vectors(6), vectors(4), features={"1": "1"}, feature_loss="cka").loss(x).total > 0

    def test_are_asked_for_before_the_optimizer_misses_them(self):
        distiller = Distiller(vectors(6), vectors(4), features={"1": "1"})
        with pytest.raises(
            ValueError, match=r"same width or a projection; got \(2, 6\) and \(2, 4\).*example_inputs"
        ):
            distiller.loss(torch.randn(2, 4))

    def test_of_ones_own(self):
        own = nn.Linear(4, 6, bias=False)
        x = torch.randn(2, 4)
        teacher, student = vectors(6), vectors(4)
        distiller = Distiller(teacher, student, features={"1": "1"}, projections={"1": own}, example_inputs=x)
        assert distiller.projections == {"1": own}
        expected = feature_mse(own(student[:2](x)), teacher[:2](x))
        torch.testing.assert_close(distiller.loss(x).features["1"], expected.detach())

    def test_leave_no_trace_in_the_models(self):
        teacher, student = convolutional(8), convolutional(5)
        student[2].eval()
        before = copy.deepcopy(student.state_dict())
        Distiller(teacher, student, features={"2": "2"}, example_inputs=torch.randn(2, 3, 4, 4))
        torch.testing.assert_close(student.state_dict(), before, rtol=0, atol=0)
        assert [module.training for module in student] == [True, True, False, True, True]
        assert not any(module._forward_hooks for model in (teacher, student) for module in model.modules())

    def test_can_be_of_modules_named_like_a_mappings_methods(self):
        class Attention(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.values, self.keys = nn.Linear(4, width), nn.Linear(width, 3)

            def forward(self, x):
                return self.keys(self.values(x))

        x, pairs = torch.ones(1, 4), {"keys": "keys", "values": "values"}
        distiller = Distiller(Attention(6), Attention(5), features=pairs, example_inputs=x)
        assert list(distiller.projections) == ["values"]
        assert distiller.loss(x).total > 0


class TestFeatures:
    def test_by_name_the_first_of_a_tuple(self):
        teacher, student = Tagger(6, 4).eval(), Tagger(6, 2).eval()
        distiller = Distiller(teacher, student, features=PAIRS).eval()
        losses = distiller.loss(TOKENS)
        assert list(losses.features) == list(PAIRS)
        expected = feature_mse(student.embed(TOKENS), teacher.embed(TOKENS))
        torch.testing.assert_close(losses.features["embed"], expected.detach())

    def test_masked_tokens_do_not_matter(self):
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
        distiller = Distiller(Tagger(6, 4), Tagger(6, 2), features=PAIRS).eval()
        losses = distiller.loss(TOKENS, mask=mask)
        other = distiller.loss(TOKENS.masked_fill(mask == 0, 9), mask=mask)
        torch.testing.assert_close(other.total, losses.total)
        torch.testing.assert_close(other.features, losses.features)
        labels = (TOKENS % 5).masked_fill(mask == 0, -100)
        torch.testing.assert_close(distiller.loss(TOKENS, labels).features, losses.features)

    def test_a_mask_of_examples_masks_all_of_their_places(self):
        teacher, student = convolutional(4), convolutional(4)
        distiller = Distiller(teacher, student, features={"2": "2"}).eval()
        images = torch.randn(3, 3, 4, 4)
        mask = torch.tensor([True, False, True])
        losses = distiller.loss(images, mask=mask)
        torch.testing.assert_close(losses.features, distiller.loss(images[[0, 2]]).features)

    def test_a_mask_of_other_positions(self):
        def model():
            return nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 1), nn.Upsample(scale_factor=2))

        distiller = Distiller(model(), model(), features={"1": "1"}, class_axis=1)
        images, labels = torch.randn(2, 3, 4, 4), torch.randint(4, (2, 4, 4))
        labels[0] = -100
        assert distiller.loss(images, labels).total.isfinite()
        with pytest.raises(ValueError, match=r"`mask` must have the positions of the features.*\(2, 2, 2\)"):
            distiller.loss(images, mask=labels > 0)

    def test_all_masked_is_a_connected_zero(self):
        distiller = Distiller(Tagger(6, 4), Tagger(6, 2), features=PAIRS)
        losses = distiller.loss(TOKENS, torch.full((3, 4), -100))
        assert losses.total == 0
        losses.total.backward()
        assert all(not p.grad.any() for p in distiller.parameters() if p.grad is not None)
        assert distiller.student.head.weight.grad is not None

    def test_a_part_of_weight_zero_is_not_computed(self):
        student, teacher = vectors(), vectors()
        distiller = Distiller(teacher, student, features={"0": "0", "1": "1"}, output_weight=0.0)
        distiller.feature_weights["0"] = 0.0
        losses = distiller.loss(torch.randn(2, 4), torch.tensor([0, 1]))
        assert losses.hard is None
        assert losses.soft is None
        assert list(losses.features) == ["1"]
        calls = []
        teacher.register_forward_hook(lambda *_: calls.append("teacher"))
        distiller.feature_weights["1"] = 0.0
        distiller.output_weight, distiller.alpha = 1.0, 0.0
        distiller.loss(torch.randn(2, 4), torch.tensor([0, 1]))
        assert not calls

    def test_of_a_module_that_runs_twice_the_last(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Linear(3, 3)

            def forward(self, x):
                return self.inner(self.inner(x))

        teacher, student = Twice(), Twice()
        x = torch.randn(2, 3)
        losses = Distiller(teacher, student, features={"inner": "inner"}).loss(x)
        torch.testing.assert_close(losses.features["inner"], feature_mse(student(x), teacher(x)).detach())

    def test_a_loss_with_parameters_is_trained(self):
        class Scaled(FeatureMSE):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.ones(()))

            def forward(self, student_feature, teacher_feature, mask=None):
                return super().forward(self.scale * student_feature, teacher_feature, mask)

        loss = Scaled()
        distiller = Distiller(vectors(), vectors(), features={"0": "0"}, feature_loss=loss)
        assert any(parameter is loss.scale for parameter in distiller.parameters())

    def test_hooks_stand_only_while_the_loss_runs_and_after_errors_neither(self):
        class Failing(nn.Linear):
            def forward(self, x):
                raise ArithmeticError

        student = nn.Sequential(nn.Linear(4, 4), Failing(4, 3))
        distiller = Distiller(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), student, features={"0": "0"})
        with pytest.raises(ArithmeticError):
            distiller.loss(torch.randn(2, 4))
        assert not any(module._forward_hooks for module in distiller.modules())


class TestTeacher:
    def test_is_in_eval_always(self):
        teacher = Tagger(6, 2).train()
        distiller = Distiller(teacher, Tagger(4, 1))
        assert not any(module.training for module in teacher.modules())
        distiller.train()
        assert not any(module.training for module in teacher.modules())
        assert distiller.student.training
        teacher.train()  # by somebody else
        distiller.loss(TOKENS)
        assert not any(module.training for module in teacher.modules())

    def test_gets_no_gradient_and_no_graph(self):
        teacher = vectors()
        distiller = Distiller(teacher, vectors(), features={"1": "1"})
        distiller.loss(torch.randn(2, 4)).total.backward()
        assert all(parameter.grad is None for parameter in teacher.parameters())
        assert all(parameter.requires_grad for parameter in teacher.parameters()), "its flags are its own"

    def test_does_not_see_its_statistics_move(self):
        teacher = convolutional(4)
        before = copy.deepcopy(teacher.state_dict())
        Distiller(teacher, convolutional(4), features={"2": "2"}).loss(torch.randn(2, 3, 4, 4))
        torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)

    def test_moves_with_the_distiller(self):
        teacher = vectors()
        distiller = Distiller(teacher, vectors(), features={"1": "1"}).double()
        assert teacher[0].weight.dtype == torch.float64
        assert distiller.loss(torch.randn(2, 4).double()).total.dtype == torch.float64
        distiller.to("meta")
        assert teacher[0].weight.is_meta

    def test_is_in_neither_children_nor_state(self):
        distiller = Distiller(vectors(), vectors())
        assert all(name.startswith(("student", "matching")) for name, _ in distiller.named_children())
        assert all(name.startswith("student.") for name in distiller.state_dict())

    def test_is_copied_with_it(self):
        teacher, student = vectors(6), vectors(4)
        x = torch.randn(2, 4)
        distiller = Distiller(teacher, student, features={"1": "1"}, example_inputs=x)
        same = copy.deepcopy(distiller)
        torch.testing.assert_close(same.loss(x).total, distiller.loss(x).total)
        assert same.teacher is not teacher
        with torch.no_grad():
            for parameter in same.student.parameters():
                parameter.zero_()
        assert not torch.equal(same(x), distiller(x))

    def test_can_be_replaced_by_its_outputs(self):
        teacher, student = vectors(), vectors()
        x, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
        expected = Distiller(teacher, student).loss(x, labels)
        losses = Distiller(None, student).loss(x, labels, teacher_outputs=teacher(x))
        torch.testing.assert_close(losses.total, expected.total)

    def test_can_be_replaced_where_the_features_weigh_nothing(self):
        teacher, student = vectors(), vectors()
        x = torch.randn(5, 4)
        distiller = Distiller(teacher, student, features={"0": "0"}, feature_weight=0.0)
        losses = distiller.loss(x, teacher_outputs=torch.zeros(5, 3))
        torch.testing.assert_close(
            losses.total, Distiller(None, student).loss(x, teacher_outputs=torch.zeros(5, 3)).total
        )

    def test_in_lower_precision_than_the_student(self):
        distiller = Distiller(vectors(), vectors(), features={"1": "1"})
        with torch.autocast("cpu", torch.bfloat16):
            losses = distiller.loss(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
        assert losses.total.dtype == torch.float32
        losses.total.backward()


class TestInputsAndOutputs:
    def test_inputs_as_a_tuple_and_as_keywords(self):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = vectors()

            def forward(self, a, b):
                return self.inner(a - 2 * b)

        distiller = Distiller(Two(), Two())
        a, b = torch.randn(2, 3, 4)
        total = distiller.loss((a, b)).total
        torch.testing.assert_close(distiller.loss({"b": b, "a": a}).total, total)
        torch.testing.assert_close(distiller.loss([a, b]).total, total)

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda logits: SimpleNamespace(logits=logits),
            lambda logits: {"logits": logits, "cache": None},
            lambda logits: (logits, None),
        ],
    )
    def test_logits_are_found_in_outputs(self, wrap):
        class Wrapped(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def forward(self, x):
                return wrap(self.inner(x))

        teacher, student = vectors(), vectors()
        x = torch.randn(2, 4)
        losses = Distiller(Wrapped(teacher), Wrapped(student)).loss(x)
        torch.testing.assert_close(losses.total, Distiller(teacher, student).loss(x).total)
        assert type(losses.output) is type(wrap(x))


class TestCompilation:
    """pytorch#173452: hooks and one graph."""

    @pytest.mark.parametrize("features", [{}, {"1": "1"}])
    def test_a_student_compiles_as_one_graph_before_and_after_a_loss(self, features):
        student = vectors()
        distiller = Distiller(vectors(), student, features=features)
        x = torch.randn(2, 4)
        for _ in range(2):
            torch._dynamo.reset()
            compiled = torch.compile(student, fullgraph=True, backend="eager")
            torch.testing.assert_close(compiled(x), student(x))
            distiller.loss(x).total.backward()
            torch.testing.assert_close(compiled(x), student(x))

    @pytest.mark.parametrize("in_place", [False, True])
    @pytest.mark.parametrize("features", [{}, {"1": "1"}])
    def test_a_compiled_student_has_the_same_loss(self, features, in_place):
        torch._dynamo.reset()

        class Own(nn.Module):  # torch compiles its own containers in place, but not as one graph
            def __init__(self):
                super().__init__()
                self.inner = vectors()

            def forward(self, x):
                return self.inner(x)

        teacher, student = Own(), Own()
        features = {f"inner.{name}": f"inner.{own}" for name, own in features.items()}
        x = torch.randn(2, 4)
        expected = Distiller(teacher, student, features=features).loss(x)
        if in_place:
            compiled = copy.deepcopy(student)
            compiled.compile(fullgraph=True, backend="eager")
        else:
            compiled = torch.compile(student, fullgraph=True, backend="eager")
        distiller = Distiller(teacher, compiled, features=features)
        for _ in range(2):
            losses = distiller.loss(x)
            torch.testing.assert_close(losses.total, expected.total)
            torch.testing.assert_close(losses.features, expected.features)
            torch.testing.assert_close(compiled(x), student(x))

    def test_a_compiled_student_is_compiled_once(self):
        torch._dynamo.reset()
        graphs = []

        def counting(graph, _inputs):
            graphs.append(graph)
            return graph.forward

        compiled = torch.compile(vectors(), fullgraph=True, backend=counting)
        distiller = Distiller(vectors(), compiled, features={"1": "1"})
        x = torch.randn(2, 4)
        for _ in range(3):
            compiled(x)
            distiller.loss(x)
        assert len(graphs) == 1


class TestErrors:
    def test_an_output_of_another_shape(self):
        student = nn.Linear(4, 2)
        with pytest.raises(ValueError, match=r"must have the teacher's shape; got \(5, 2\) and \(5, 3\)"):
            Distiller(vectors(), student).loss(torch.randn(5, 4))

    def test_a_name_that_no_module_has(self):
        with pytest.raises(
            ValueError, match=r"modules of the Tagger; got 'layers.9'. Did you mean 'layers.\d'"
        ):
            Distiller(Tagger(4, 4), Tagger(4, 2), features={"layers.9": "layers.1"})
        with pytest.raises(ValueError, match=r"got 'layer\.1'. Did you mean 'layers.1'"):
            Distiller(Tagger(4, 4), Tagger(4, 2), features={"layers.3": "layer.1"})
        with pytest.raises(ValueError, match=r"got 'zzz'\. Its modules: embed, layers"):
            Distiller(Tagger(4, 4), Tagger(4, 2), features={"layers.3": "zzz"})

    def test_a_module_that_does_not_run(self):
        for features in ({"unused": "embed"}, {"embed": "unused"}):
            distiller = Distiller(Tagger(4, 4), Tagger(4, 2), features=features)
            with pytest.raises(RuntimeError, match=r"module 'unused' must run when the .* did not run"):
                distiller.loss(TOKENS)

    def test_a_module_that_returns_no_tensor(self):
        class Odd(nn.Module):
            def forward(self, x):
                return {"x": x}

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.odd, self.linear = Odd(), nn.Linear(4, 3)

            def forward(self, x):
                return self.linear(self.odd(x)["x"])

        with pytest.raises(TypeError, match=r"module 'odd' must return a tensor.*got dict"):
            Distiller(Model(), Model(), features={"odd": "odd"}).loss(torch.randn(2, 4))

    def test_outputs_without_logits(self):
        class Odd(nn.Linear):
            def forward(self, x):
                return "text"

        with pytest.raises(TypeError, match=r"a model's output must be a tensor.*got str"):
            Distiller(Odd(4, 3), Odd(4, 3)).loss(torch.randn(2, 4))

    def test_a_teacher_that_is_its_own_student(self):
        model = vectors()
        with pytest.raises(ValueError, match="`student` must be another module than `teacher`"):
            Distiller(model, model)

    def test_no_teacher(self):
        with pytest.raises(ValueError, match="`features` needs a teacher to match; got None"):
            Distiller(None, vectors(), features={"0": "0"})
        with pytest.raises(ValueError, match="`teacher_outputs` must be given where `teacher` is None"):
            Distiller(None, vectors()).loss(torch.randn(2, 4))

    def test_outputs_and_features(self):
        distiller = Distiller(vectors(), vectors(), features={"0": "0"})
        with pytest.raises(ValueError, match="`teacher_outputs` must be None where features are matched"):
            distiller.loss(torch.randn(2, 4), teacher_outputs=torch.randn(2, 3))

    def test_nothing_to_learn_from(self):
        with pytest.raises(
            ValueError, match="`targets` must be given where the teacher has no share; got None"
        ):
            Distiller(vectors(), vectors(), alpha=0.0).loss(torch.randn(2, 4))
        with pytest.raises(ValueError, match="`output_weight` = 0"):
            Distiller(vectors(), vectors(), output_weight=0.0).loss(torch.randn(2, 4), torch.tensor([0, 1]))

    @pytest.mark.parametrize(
        ("words", "options"),
        [
            (r"`alpha` must lie in \[0, 1\]; got 2", {"alpha": 2.0}),
            ("`temperature` must be above 0", {"temperature": 0.0}),
            ("`output_weight` must be 0 or more, and finite; got -1", {"output_weight": -1.0}),
            ("`feature_weight` must be 0 or more, and finite; got nan", {"feature_weight": math.nan}),
            (
                r"`feature_weight` must be one value for all.*\['0'\]; got one from \['1'\]",
                {"feature_weight": {"1": 1}},
            ),
            ("`feature_loss` must be one value for all", {"feature_loss": {}}),
            (r"`projections` must have names.*\['0'\]; got \['1'\]", {"projections": {"1": nn.Identity()}}),
        ],
    )
    def test_options(self, words, options):
        with pytest.raises(ValueError, match=words):
            Distiller(vectors(), vectors(), features={"0": "0"}, **options)

    def test_a_feature_loss_that_nobody_offers(self):
        with pytest.raises(AthenaError, match=r"cosin.*Did you mean `cosine`"):
            Distiller(vectors(), vectors(), features={"0": "0"}, feature_loss="cosin")

    def test_features_with_different_axes(self):
        teacher = nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(4, 3))
        distiller = Distiller(teacher, vectors(), features={"0": "0"})
        with pytest.raises(
            ValueError, match=r"as many axes; got the student's \(2, 6\) and the teacher's \(2, 2, 2\)"
        ):
            distiller.loss(torch.randn(2, 4))

    def test_a_projection_of_volumes(self):
        def model(width):
            return nn.Sequential(nn.Conv3d(1, width, 1), nn.Flatten(), nn.LazyLinear(2))

        with pytest.raises(
            ValueError, match="projections are made for vectors, sequences and images of two axes"
        ):
            Distiller(model(2), model(3), features={"0": "0"}, example_inputs=torch.randn(1, 1, 2, 2, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("loss", ["mse", "cosine"])
def test_projections_have_the_dtype_of_the_features(loss: str, dtype: torch.dtype) -> None:
    teacher, student = Tagger(8, 1).to(dtype), Tagger(6, 1).to(dtype)
    tokens = torch.randint(11, (2, 3))
    features = {"layers.0": "layers.0"}
    distiller = Distiller(teacher, student, features=features, feature_loss=loss, example_inputs=tokens)
    distiller.loss(tokens).total.backward()
    projection = distiller.projections["layers.0"].weight
    assert projection.dtype == dtype
    assert projection.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "t"}, "`teacher` must be a torch.nn.Module; got 't'"),
        ({"student": None}, "`student` must be a torch.nn.Module; got None"),
        ({"features": ["0"]}, r"`features` must map names .*; got \['0'\]"),
        ({"features": {"0": 1}}, r"`features` must map names .*; got \{'0': 1\}"),
    ],
)
def test_what_is_no_model_and_no_names(options: dict, message: str) -> None:
    models = {"teacher": nn.Sequential(nn.Linear(2, 2)), "student": nn.Sequential(nn.Linear(2, 2))}
    with pytest.raises(ValueError, match=message):
        Distiller(**(models | options))


def test_a_class_axis_that_is_none() -> None:
    distiller = Distiller(nn.Linear(2, 3), nn.Linear(2, 3), class_axis=4)
    with pytest.raises(ValueError, match=r"`class_axis` must be an axis of the logits, \(5, 3\); got 4"):
        distiller.loss(torch.randn(5, 2), torch.zeros(5, dtype=torch.long))
