"""The weights of a model that masks can prune."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from athena_compress._select import Patterns, as_patterns, select

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
KINDS = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED, nn.Embedding, nn.MultiheadAttention)


@dataclass(frozen=True, eq=False)
class PrunableWeight:
    """A weight of a layer, by name; the parameter is looked up, since loading may replace it.

    >>> layer = nn.ConvTranspose1d(4, 6, 3, groups=2)
    >>> weight = prunable_weights(layer)["weight"]
    >>> weight.parameter.shape, weight.rows(weight.parameter).shape, weight.summed_axis
    (torch.Size([4, 3, 3]), torch.Size([6, 6]), 0)
    """

    name: str
    layer_name: str
    layer: nn.Module
    attribute: str

    @property
    def parameter(self) -> nn.Parameter:
        return getattr(self.layer, self.attribute)

    def rows(self, values: Tensor) -> Tensor:
        """Values of the weight's shape as a matrix with one row for each output of the layer."""
        if isinstance(self.layer, TRANSPOSED):
            groups = self.layer.groups
            values = values.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        elif isinstance(self.layer, nn.Embedding):
            values = values.transpose(0, 1)
        return values.flatten(1)

    def from_rows(self, rows: Tensor) -> Tensor:
        """The inverse of `rows`."""
        shape = self.parameter.shape
        if isinstance(self.layer, TRANSPOSED):
            groups = self.layer.groups
            split = rows.view(groups, shape[1], shape[0] // groups, *shape[2:])
            return split.transpose(1, 2).flatten(0, 1)
        if isinstance(self.layer, nn.Embedding):
            return rows.transpose(0, 1)
        return rows.view(shape)

    @property
    def summed_axis(self) -> int:
        """The axis that a product with the weight sums over; of an embedding, that of a head tied to it."""
        return 0 if isinstance(self.layer, TRANSPOSED) else 1


def prunable_weights(
    model: nn.Module, *, include: Patterns = ("*",), skip: Patterns = ()
) -> dict[str, PrunableWeight]:
    """The weights of linear, convolutional and embedding layers and of attention's projections, by name.

    Biases and normalisations are left out. A weight that several layers share appears once, under its
    first name, and is left out if one of the layers is skipped.

    Args:
        model: any module.
        include: shell patterns of names of layers.
        skip: the same, of those to leave out.

    Raises ValueError for a pattern that matches nothing, if no weight is left, and for a weight that is
    computed from others.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> list(prunable_weights(model, skip="2"))
    ['0.weight']
    """
    selected = select(model, KINDS, include=include, skip=skip)
    skipped = select(model, KINDS, include=skip) if as_patterns(skip) else {}
    seen = {id(weight.parameter) for name, layer in skipped.items() for weight in _weights(name, layer)}
    found: dict[str, PrunableWeight] = {}
    for name, layer in selected.items():
        for weight in _weights(name, layer):
            if id(weight.parameter) not in seen:
                seen.add(id(weight.parameter))
                found[weight.name] = weight
    if not found:
        raise ValueError(
            "`model` must have weights to prune: linear, convolutional, embedding or attention layers; got "
            f"none that `include` and `skip` leave in {type(model).__name__}. Widen the patterns."
        )
    return found


def _weights(name: str, layer: nn.Module) -> list[PrunableWeight]:
    attributes = ["weight"]
    if isinstance(layer, nn.MultiheadAttention):
        attributes = ["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"]
        attributes = [each for each in attributes if getattr(layer, each) is not None]
    found = [PrunableWeight(f"{name}.{each}".lstrip("."), name, layer, each) for each in attributes]
    for weight in found:
        if not isinstance(weight.parameter, nn.Parameter):
            raise ValueError(
                f"`{weight.name}` must be a parameter to be pruned; it is computed from others, by a "
                "parametrization or a hook. Remove that, or skip the layer."
            )
    return found
