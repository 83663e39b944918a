"""A student that learns from a teacher: soft targets, labels, and features matched by module name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from athena_compress._call import call
from athena_compress._capture import captured, find_module, logits_of, taken
from athena_compress._distillation_loss import HardLoss, check_alpha, counted, mixed_loss
from athena_compress._matching import FeatureLossLike, Matching, check_weight, feature_mask, per_pair
from athena_compress._modes import evaluating
from athena_compress._soft_targets import check_temperature


class Losses(NamedTuple):
    """What `Distiller.loss` returns.

    ``total`` carries the graph. The others are for logging, detached and not weighted, and None where they
    are not computed: ``hard``, of the labels; ``soft``, of the teacher's logits; ``features``, by the names
    of the teacher's modules. ``output`` is the student's output, whole.

    >>> Losses(torch.tensor(1.0), None, torch.tensor(1.0), {}, None).total
    tensor(1.)
    """

    total: Tensor
    hard: Tensor | None
    soft: Tensor | None
    features: dict[str, Tensor]
    output: Any


class Distiller(nn.Module):
    r"""A student with its teacher: called, it is the student; its `loss` is what training makes small.

    .. math:: L = w \big((1 - \alpha)\, L_{\text{hard}} + \alpha\, L_{\text{soft}}\big)
        + \sum_i w_i \, \ell_i\big(P_i(s_i), t_i\big)

    with `soft_target_loss`, the labels' loss, and a feature loss for each pair of modules, the student's
    through a learned projection :math:`P_i` where the loss needs equal widths and they differ.

    Args:
        teacher: a module, or None where every loss is given ``teacher_outputs`` and no features are matched.
            It runs in eval mode, which ``train()`` does not change, and without gradients. It moves with
            ``to()``, but is in neither ``parameters()`` nor ``state_dict()``: these hold the student and the
            projections.
        student: another module, with the teacher's inputs and shape of output.
        temperature: of the soft targets.
        alpha: the soft targets' share of the two losses of the output, in [0, 1].
        features: names of the teacher's modules, each with the student's that follows it. A module's feature
            is its output, of a tuple its first element, and of several runs the last.
        feature_loss: name of a component of the kind ``feature-loss``, such a loss, or a function of the
            student's feature, the teacher's and a mask; or a mapping to these from the teacher's names.
        feature_weight: :math:`w_i`, one for all, or by the names of the teacher's modules.
        output_weight: :math:`w`; 0 for hints alone.
        projections: modules by the names of the teacher's modules, to use in place of those that are made.
        hard_loss: of student's logits and targets, of all positions, whatever a mask says; the default is
            the cross-entropy, of those that the mask allows and whose label is not ``ignore_index``.
        ignore_index: the label of positions that weigh nothing.
        class_axis: the axis of the classes: the last, or 1 for images ``(batch, classes, height, width)``.
        example_inputs: inputs as `loss` takes them. Student and teacher run on them once, in eval mode, to
            make the projections, which have to be there when an optimizer takes ``parameters()``. Needed
            only where widths differ; `loss` says so.

    ``alpha``, ``temperature``, ``output_weight`` and the mapping ``feature_weights`` may change at any time.
    A part of weight 0 is not computed. Features are caught by hooks that stand only while `loss` runs, so
    that a compiled student stays one graph; where features are matched, `loss` runs models uncompiled.

    Raises ValueError for a teacher that is its own student, a name that no module has, with the nearest one,
    and options outside their ranges; AthenaError for an unknown feature loss.
    Source: Hinton et al. 2015, arXiv:1503.02531; Romero et al. 2015, arXiv:1412.6550 (hints, regressors).
    Departs from it: hints are learned beside the soft targets; `layer_by_layer` makes stages of them.

    >>> teacher = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> student = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3))
    >>> inputs, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    >>> distiller = Distiller(teacher, student, features={"1": "1"}, example_inputs=inputs)
    >>> distiller.projections["1"]
    Linear(in_features=2, out_features=8, bias=True)
    >>> optimizer = torch.optim.AdamW(distiller.parameters())
    >>> losses = distiller.loss(inputs, labels)
    >>> losses.total.backward()
    >>> optimizer.step()
    >>> list(losses.features)
    ['1']
    """

    def __init__(
        self,
        teacher: nn.Module | None,
        student: nn.Module,
        *,
        temperature: float = 4.0,
        alpha: float = 0.9,
        features: Mapping[str, str] | None = None,
        feature_loss: FeatureLossLike | Mapping[str, FeatureLossLike] = "mse",
        feature_weight: float | Mapping[str, float] = 1.0,
        output_weight: float = 1.0,
        projections: Mapping[str, nn.Module] | None = None,
        hard_loss: HardLoss | None = None,
        ignore_index: int = -100,
        class_axis: int = -1,
        example_inputs: Any = None,
    ) -> None:
        super().__init__()
        _check_kinds(teacher, student, features)
        self.features = dict(features or {})
        _check_models(teacher, student, self.features)
        check_alpha(alpha)
        check_temperature(temperature)
        self._teacher = (teacher,)  # in a tuple it is no child, whose parameters would be trained and saved
        self.student = student
        self.temperature = temperature
        self.alpha = alpha
        self.output_weight = output_weight
        self.hard_loss = hard_loss
        self.ignore_index = ignore_index
        self.class_axis = class_axis
        self.feature_weights: dict[str, float] = per_pair("feature_weight", feature_weight, self.features)
        check_weight("output_weight", output_weight)
        for weight in self.feature_weights.values():
            check_weight("feature_weight", weight)
        self.matching = Matching(self.features, feature_loss, projections or {})
        if teacher is not None:
            teacher.eval()
        if example_inputs is not None:
            self._make_projections(example_inputs)

    @property
    def projections(self) -> dict[str, nn.Module]:
        """The learned maps from the student's widths, by the names of the teacher's modules."""
        return self.matching.named_projections()

    @property
    def teacher(self) -> nn.Module | None:
        """The teacher, which is no child of this module."""
        return self._teacher[0]

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """The student's output."""
        return self.student(*inputs, **keywords)

    def loss(
        self,
        inputs: Any,
        targets: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        teacher_outputs: Tensor | None = None,
    ) -> Losses:
        """Run student and teacher, and compare them.

        Args:
            inputs: what both models take: one argument, a tuple or list of them, or a mapping of keywords.
            targets: what the hard loss takes beside the student's logits. Without them there is no hard
                loss, and the other parts keep their weights.
            mask: True, or not 0, where a position counts, such as a token that is no padding; the shape of
                the logits without their classes. Features of the same positions, and of ``(batch,)`` all
                features, are masked alike.
            teacher_outputs: the teacher's logits for these inputs, as a `TeacherCache` holds them, in place
                of its running; only where no features are matched.

        Positions whose label is ``ignore_index`` do not count, nor do they in features of as many positions.
        A model's logits are its output, what that holds as ``logits``, or its first element.

        Raises ValueError where nothing is left to learn from, for a student whose output has another shape
        than the teacher's, features whose widths differ and that have no projection, and a mask that fits
        neither; RuntimeError if a module that is matched does not run.
        """
        active = {name: own for name, own in self.features.items() if self.feature_weights[name] != 0}
        self._check_wanted(targets, teacher_outputs, active)
        with captured(self.student, set(active.values())) as student_features:
            output = call(self.student, inputs)
        logits = logits_of(output)
        known = None if teacher_outputs is None else teacher_outputs.to(logits.device)
        teacher_features: dict[str, Tensor] = {}
        if active or (known is None and self._learns_soft()):
            known, teacher_features = self._run_teacher(inputs, active)
        own_labels = self.hard_loss is not None
        kept = counted(
            logits,
            None if own_labels else targets,
            mask,
            ignore_index=self.ignore_index,
            class_axis=self.class_axis,
        )
        parts = {
            name: self.matching(
                name,
                feature := taken(student_features, own, "student"),
                taken(teacher_features, name, "teacher"),
                feature_mask(kept, feature, explicit=mask is not None),
            )
            for name, own in active.items()
        }
        return self._total(logits, known, targets, kept, parts, output)

    def train(self, mode: bool = True) -> Self:
        """Set the student's mode; the teacher stays in eval."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What `to()`, `cuda()` and `half()` call: the teacher goes along.
        if self.teacher is not None and recurse:
            self.teacher._apply(fn)
        return super()._apply(fn, recurse)

    def _learns_soft(self) -> bool:
        return self.output_weight != 0 and self.alpha > 0

    def _total(
        self,
        logits: Tensor,
        known: Tensor | None,
        targets: Tensor | None,
        kept: Tensor | None,
        parts: dict[str, Tensor],
        output: Any,
    ) -> Losses:
        total = logits.new_zeros((), dtype=torch.promote_types(logits.dtype, torch.float32))
        hard = soft = None
        if self.output_weight != 0:
            mixed, hard, soft = mixed_loss(
                logits,
                known,
                targets,
                alpha=self.alpha,
                temperature=self.temperature,
                mask=kept,
                class_axis=self.class_axis,
                hard_loss=self.hard_loss,
            )
            total = total + self.output_weight * mixed
        for name, part in parts.items():
            total = total + self.feature_weights[name] * part
        detached = {name: part.detach() for name, part in parts.items()}
        return Losses(total, _detached(hard), _detached(soft), detached, output)

    @torch.no_grad()
    def _run_teacher(self, inputs: Any, names: Mapping[str, str]) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.teacher is not None
        self.teacher.eval()
        with captured(self.teacher, names) as features:
            output = call(self.teacher, inputs)
        return logits_of(output).detach(), features

    @torch.no_grad()
    def _make_projections(self, inputs: Any) -> None:
        _, teacher_features = self._run_teacher(inputs, self.features)
        with evaluating(self.student), captured(self.student, set(self.features.values())) as features:
            call(self.student, inputs)
        self.matching.make_projections(features, teacher_features)

    def _check_wanted(
        self, targets: Tensor | None, outputs: Tensor | None, active: Mapping[str, str]
    ) -> None:
        wants_labels = self.output_weight != 0 and self.alpha < 1 and targets is not None
        if not (wants_labels or self._learns_soft() or active):
            raise ValueError(
                "`targets` must be given where the teacher has no share; got None, with `alpha` = "
                f"{self.alpha} and `output_weight` = {self.output_weight}. Pass targets, or raise a weight."
            )
        if outputs is not None and active:
            raise ValueError(
                "`teacher_outputs` must be None where features are matched, as the teacher runs for these; "
                "got a tensor. Leave it out, or set the weights of the features to 0."
            )
        if self.teacher is None and outputs is None and (active or self._learns_soft()):
            raise ValueError(
                "`teacher_outputs` must be given where `teacher` is None; got None. Pass the teacher's logits"
                " for these inputs, such as those of a TeacherCache."
            )


def _check_kinds(teacher: Any, student: Any, features: Any) -> None:
    for name, model in (("teacher", teacher), ("student", student)):
        if not (isinstance(model, nn.Module) or (name == "teacher" and model is None)):
            raise ValueError(f"`{name}` must be a torch.nn.Module; got {model!r:.60}.")
    if features is None:
        return
    if not isinstance(features, Mapping) or not all(
        isinstance(name, str) for pair in features.items() for name in pair
    ):
        raise ValueError(
            "`features` must map names of the teacher's modules to names of the student's; "
            f"got {features!r:.60}."
        )


def _check_models(teacher: nn.Module | None, student: nn.Module, features: Mapping[str, str]) -> None:
    if teacher is student:
        raise ValueError(
            "`student` must be another module than `teacher`; got the same one twice. Pass a copy of it, as "
            "copy.deepcopy or born_again make."
        )
    if teacher is None and features:
        raise ValueError("`features` needs a teacher to match; got None. Pass the module as `teacher`.")
    for name, own in features.items():
        assert teacher is not None
        find_module(teacher, name)
        find_module(student, own)


def _detached(loss: Tensor | None) -> Tensor | None:
    return None if loss is None else loss.detach()
