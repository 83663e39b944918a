"""Progressive networks: a column a task, each seeing what those before it have learned."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from athena_multitask._column import RESIZABLE, Column, Stage, hidden_shapes, resize_outputs, stages_of
from athena_multitask._fresh import check_fresh, fresh_copy
from athena_multitask._lateral import CONVOLUTIONS, AdapterLateral, LinearLateral, Shapes

Edit = Callable[[int, int, Tensor], Tensor]


class ProgressiveNetwork(nn.Module):
    r"""Columns of one architecture; each also sees the hidden activations of all earlier ones.

    .. math::
        h_i^{(k)} &= f\Big(W_i^{(k)} h_{i-1}^{(k)} + \sum_{j<k} U_i^{(k:j)} h_{i-1}^{(j)}\Big)
            \quad \text{(linear)} \\
        h_i^{(k)} &= f\Big(W_i^{(k)} h_{i-1}^{(k)} + U_i^{(k)} \sigma\big(V_i^{(k)}
            \alpha_{i-1}^{(<k)} h_{i-1}^{(<k)}\big)\Big) \quad \text{(adapter)}

    It starts with one column. `add_column` adds one for the next task; `freeze_old` makes sure that nothing
    changes the others: they take no gradient, stay in eval mode whatever calls `train` on them, and an
    optimizer that still holds them leaves their bits alone. Give the next optimizer `parameters_to_train`. A
    state dict of more columns builds those that are missing, with as many outputs as they have.

    A stage of a Sequential is one layer with a weight matrix, what follows it until the next, and laterals
    are added to the layer's own output, before its normalization and nonlinearity. They start from what the
    same layer takes in the earlier columns.

    Args:
        column: a module, of which the first column is a copy and the others copies with new weights; or a
            function that makes one.
        lateral: "linear" or "adapter".
        stages: names of the column's parts in the order in which they are applied, if it is no Sequential.
        example: an input, needed where a stage is neither a Linear nor a convolution nor begins with one.
        activation: makes the nonlinearity of an adapter.

    Shape: as of the column.

    Raises ValueError for another ``lateral``, for parts that cannot be told apart, or for a column of another
    shape or with weights of an earlier one.

    Source: Rusu et al. 2016, Progressive neural networks, arXiv:1606.04671, equations 1 and 2. Departs from
    it: columns have one width.

    >>> column = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> grown = ProgressiveNetwork(column, lateral="adapter")
    >>> x = torch.ones(3, 4)
    >>> before = grown(x)
    >>> _ = grown.add_column()
    >>> grown.freeze_old()
    >>> torch.equal(grown(x, column=0), before), grown(x).shape
    (True, torch.Size([3, 2]))
    >>> sum(parameter.numel() for parameter in grown.parameters_to_train())  # 58 + 1 scale, V and U
    147
    """

    def __init__(
        self,
        column: nn.Module | Callable[[], nn.Module],
        *,
        lateral: Literal["linear", "adapter"] = "linear",
        stages: Sequence[str] | None = None,
        example: Any = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        if lateral not in ("linear", "adapter"):
            raise ValueError(f"`lateral` must be 'linear' or 'adapter'; got {lateral!r}. Take one of them.")
        self.lateral = lateral
        self._names = None if stages is None else tuple(stages)
        self._activation = activation
        if isinstance(column, nn.Module):
            check_fresh(column)
            column = copy.deepcopy(column)
        # in a list, for a module in an attribute would be a part of this one
        self._made_by: list[nn.Module | Callable[[], nn.Module]] = [column]
        parts = stages_of(copy.deepcopy(column) if isinstance(column, nn.Module) else column(), self._names)
        self._sizes = _sizes(parts, example)
        self.columns = nn.ModuleList([Column(parts, [None] * len(parts))])

    def add_column(self, column: nn.Module | None = None) -> Column:
        """Add a column, on the device of the first; freezes nothing.

        Args:
            column: by default one as the first, with new weights. Only the number of outputs of its last
                layer may differ, if that is a Linear or a convolution.

        Raises ValueError for a column of another shape, or with weights of an earlier one.
        """
        column = self._fresh() if column is None else column
        parts = stages_of(column, self._names)
        first = self._columns[0]
        held = set(self.parameters()) | set(self.buffers())
        if any(tensor in held for tensor in (*column.parameters(), *column.buffers())):
            raise ValueError(
                f"`column` must hold weights of its own; got a {type(column).__name__} that shares some with "
                "an earlier column, which would change too. Make a new one each time."
            )
        expected, found = hidden_shapes(first.parts), hidden_shapes(parts)
        if len(parts) != len(first.parts) or found != expected:
            raise ValueError(
                f"`column` must have the hidden shapes of the first, {expected}; got {found}. "
                "Only the outputs of a last Linear or convolution may differ."
            )
        laterals = [self._lateral(index, stage) if index else None for index, stage in enumerate(parts)]
        added = Column(parts, laterals)
        reference = next(first.parameters())
        added.to(device=reference.device, dtype=reference.dtype)
        self.columns.append(added.train(self.training))
        return added

    def freeze_old(self) -> None:
        """Freeze all columns but the newest."""
        for column in self._columns[:-1]:
            column.freeze()

    def parameters_to_train(self) -> list[nn.Parameter]:
        """Parameters of the columns that are not frozen."""
        return [
            parameter for column in self._columns if not column.frozen for parameter in column.parameters()
        ]

    def forward(self, x: Any, column: int | None = None, *, edit: Edit | None = None) -> Any:
        """What a column gives, by default the newest.

        Args:
            x: what the first stage takes.
            column: its number; may be negative.
            edit: is given the number of a column, of a stage, and what it gives; returns what to go on with.

        Raises ValueError for a column that is not there.
        """
        last = self.index(-1 if column is None else column)
        columns = self._columns[: last + 1]
        if not torch.compiler.is_compiling():
            for owner in columns:
                owner.hold()
        hidden = [x] * len(columns)
        final = len(columns[0].parts) - 1
        for place in range(final + 1):
            taken: list[Any] = []
            for number, owner in enumerate(columns):
                stage = owner.parts[place]
                taken.append(stage.before(hidden[number]))
                if place == final and number < last:
                    continue  # nothing sees what earlier columns give, only what their last layer takes
                given = stage.layer(taken[number])
                if place and number:
                    given = given + owner.laterals[place](taken[:number])
                given = stage.after(given)
                hidden[number] = given if edit is None else edit(number, place, given)
        return hidden[last]

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        for column in self._columns:
            column.requires_grad_(requires_grad)
        return self

    def get_extra_state(self) -> dict[str, Any]:
        return {"frozen": [column.frozen for column in self._columns]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for column, frozen in zip(self._columns, state["frozen"], strict=True):
            if frozen:
                column.freeze()
            elif column.frozen:  # else what the user froze of it stays so
                column.frozen = False
                column.requires_grad_(True)
                column.train(self.training)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        pattern = re.compile(re.escape(prefix) + r"columns\.(\d+)\.")
        found = {int(match[1]) + 1 for match in map(pattern.match, state_dict) if match}
        with torch.random.fork_rng(devices=[]):  # a resumed run goes on with the numbers of the checkpoint
            while found and len(self.columns) < max(found):
                place, last = len(self.columns), len(self._columns[0].parts) - 1
                weight = state_dict.get(f"{prefix}columns.{place}.stages.{last}.layer.weight")
                self.add_column(self._fresh(like=weight))
        if found and len(self.columns) > max(found):
            raise ValueError(
                f"the state must have at least the network's {len(self.columns)} columns; got {max(found)}. "
                "Load it into a new network, which grows."
            )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _fresh(self, like: Tensor | None = None) -> nn.Module:
        """A column with new weights, with as many outputs as a weight of its last layer if one is given."""
        made = self._made_by[0]
        column = fresh_copy(made) if isinstance(made, nn.Module) else made()
        if like is not None:
            layer = stages_of(column, self._names)[-1].layer
            if isinstance(layer, RESIZABLE) and len(like) != len(layer.weight):
                resize_outputs(layer, len(like))
        return column

    @property
    def _columns(self) -> list[Column]:
        return list(self.columns)  # pyright: ignore[reportReturnType]

    def index(self, column: int) -> int:
        """The number of a column, from 0; counts back from the newest if negative."""
        count = len(self.columns)
        if not -count <= column < count:
            raise ValueError(f"`column` must be below {count}, the number of columns; got {column}. Add one.")
        return column % count

    def _lateral(self, index: int, stage: Stage) -> nn.Module:
        options = {"columns": len(self.columns), "shapes": self._sizes[index]}
        if self.lateral == "linear":
            return LinearLateral(stage.layer, **options)
        return AdapterLateral(stage.layer, **options, activation=self._activation)


def _sizes(stages: Sequence[Stage], example: Any) -> list[Shapes | None]:
    """What each layer takes and gives, where that must be known.

    Raises ValueError if it must, and there is no example.
    """
    plain = (nn.Linear, *CONVOLUTIONS)
    if example is None:
        for stage in stages[1:]:
            if not isinstance(stage.layer, plain):
                raise ValueError(
                    "`example` must be an input where a stage is neither a Linear nor a convolution; got "
                    f"none, for a {type(stage.layer).__name__}. Pass `example=` a batch of one row."
                )
        return [None] * len(stages)
    sizes: list[Shapes | None] = []
    modes = [(module, module.training) for stage in stages for module in stage.modules()]
    for stage in stages:
        stage.eval()  # one row has no statistics
    with torch.no_grad():
        hidden = example
        for stage in stages:
            taken = stage.before(hidden)
            given = stage.layer(taken)
            sizes.append((tuple(taken.shape), tuple(given.shape)))
            hidden = stage.after(given)
    for module, mode in modes:
        module.training = mode
    return sizes
