"""A model made ready for quantization: layers in the forms that schemes know, batch norms folded."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from athena_compress._attention import split_attention
from athena_compress._copied import copied
from athena_compress._data_flow import is_hooked
from athena_compress._fold import fold_batch_norm


def quantizable_copy(model: nn.Module, example_inputs: Any = None, *, fold: bool = True) -> nn.Module:
    """A copy in evaluation mode with equal outputs, whose layers schemes know.

    `nn.MultiheadAttention` is split into linear layers (`split_attention`), layers that hold a linear
    layer's weight transposed (transformers' ``Conv1D``) become linear, and batch norms are folded
    (`fold_batch_norm`) if ``fold`` says so.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> quantizable_copy(model)
    Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
      (1): Identity()
    )
    """
    ready = fold_batch_norm(model, example_inputs) if fold else copied(model).eval()
    check_weights(ready)
    odd = [name for name, module in ready.named_modules() if _stays_whole(module)]
    if any(isinstance(module, nn.MultiheadAttention) for module in ready.modules()):
        ready = split_attention(ready, skip=odd)
    for module in [*ready.modules()]:
        if is_transposed_linear(module):
            ready = put(ready, module, as_linear(module))
    return ready.eval()


def check_weights(model: nn.Module) -> None:
    """Raise ValueError for a parameter that is a shape alone."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ValueError(
                f"`model` must hold its weights; got `{name}` on the meta device. Load it first."
            )


def _stays_whole(module: nn.Module) -> bool:
    """Whether it is an attention that `split_attention` cannot take apart."""
    if not isinstance(module, nn.MultiheadAttention):
        return False
    return module.bias_k is not None or module.add_zero_attn or is_hooked(module) or is_parametrized(module)


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether a module is a ``Conv1D`` as GPT-2's, by its form: a linear layer with an ``(in, out)`` weight.

    >>> is_transposed_linear(nn.Linear(2, 3))
    False
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    return (
        type(module).__name__ == "Conv1D"
        and isinstance(weight, Tensor)
        and isinstance(bias, Tensor)
        and weight.ndim == 2
        and tuple(weight.shape) == (getattr(module, "nx", 0), getattr(module, "nf", 0))
    )


def as_linear(module: Any) -> nn.Linear:
    """The linear layer that a ``Conv1D`` is."""
    linear = nn.Linear(module.nx, module.nf, device="meta")
    linear.weight = nn.Parameter(module.weight.detach().t().contiguous(), module.weight.requires_grad)
    linear.bias = nn.Parameter(module.bias.detach().clone(), module.bias.requires_grad)
    return linear.train(module.training)


def put(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """``model`` with one module in the place of another, wherever that stands; changed in place.

    >>> model = nn.Sequential(nn.ReLU(), nn.Tanh())
    >>> put(model, model[0], nn.Identity())[0]
    Identity()
    """
    if model is old:
        return new
    for name, module in [*model.named_modules(remove_duplicate=False)]:
        if module is old:
            model.set_submodule(name, new)
    return model
