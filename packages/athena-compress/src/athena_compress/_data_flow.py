"""Which layer's output is which layer's input: of a run that is watched, or of a symbolic trace."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from athena_compress._call import call
from athena_compress._copied import copied

Values = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """A call of a layer, or of a function outside of any layer, with the values that it takes and makes."""

    name: str  # of the layer, as in `named_modules`; empty for a function
    function: str  # of the function, as torch spells it; the class of the layer
    inputs: Values
    outputs: Values
    shape: tuple[int, ...] | None = None  # of the first output, where the run was watched


@dataclass
class DataFlow:
    """The steps of one forward pass in their order, and what the model returns.

    A layer is a module that has no modules inside. Values are numbered; a tensor that is changed in place
    is a new value.
    """

    model: nn.Module
    steps: list[Step] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)  # values of parameters that functions read

    def __post_init__(self) -> None:
        self._consumers: defaultdict[int, list[Step]] = defaultdict(list)
        self._calls: Counter[str] = Counter()
        self._places = Counter(id(m) for _, m in self.model.named_modules(remove_duplicate=False))

    def add(self, step: Step) -> None:
        """Append a step."""
        self.steps.append(step)
        self._calls[step.name] += 1
        for value in step.inputs:
            self._consumers[value].append(step)

    def consumers(self, value: int) -> list[Step]:
        """The steps that take a value, once for each time; ``output`` is the step of the model's result."""
        return self._consumers[value]

    def is_plain(self, name: str) -> bool:
        """Whether a layer is called once, in one place, has no hooks, and no function reads its weights."""
        layer = self.model.get_submodule(name)
        read = any(parameter.rpartition(".")[0] == name for parameter in self.parameters)
        return self._calls[name] == 1 == self._places[id(layer)] and not is_hooked(layer) and not read


def data_flow(
    model: nn.Module, example_inputs: Any = None, *, forward: Callable[[Any, Any], Any] = call
) -> DataFlow | None:
    """The data flow of a model in evaluation mode, which is left as it is.

    Args:
        model: any module.
        example_inputs: a tensor, a tuple of positional arguments, or a mapping of named ones: the model is
            run on them and watched. None: it is traced by torch.fx.
        forward: calls the model with the example.

    Returns None if there are no inputs and torch.fx cannot trace the model. What the model raises on the
    example is not caught.
    """
    model = copied(model).eval()
    return _trace(model) if example_inputs is None else _watch(model, example_inputs, forward)


def is_hooked(module: nn.Module) -> bool:
    """Whether code of the user's, or a reparametrization of the old kind, runs around its forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _watch(model: nn.Module, example_inputs: Any, forward: Callable[[Any, Any], Any]) -> DataFlow:
    flow = DataFlow(model)
    watcher = _Watcher(flow)
    handles = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.TransformerEncoder):
            layer.use_nested_tensor = False  # whose layers torch runs in one call, and only unwatched
        if any(layer.children()):
            continue
        enter, leave = watcher.hooks(name)
        handles.append(layer.register_forward_pre_hook(enter, prepend=True, with_kwargs=True))
        handles.append(layer.register_forward_hook(leave))
    with torch.no_grad(), watcher:
        result = forward(model, example_inputs)
    for handle in handles:  # of the copy, whose own hooks are asked for later
        handle.remove()
    flow.add(Step("", "output", watcher.values(result), ()))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        value = watcher.number.get(parameter)
        if value is not None and flow.consumers(value):
            flow.parameters[name] = value
    return flow


class _Watcher(TorchDispatchMode):
    """Sees what is computed below autograd, so that no use of a tensor escapes it."""

    def __init__(self, flow: DataFlow) -> None:
        super().__init__()
        self.flow = flow
        # weak, so that the run takes no more memory than any: what has gone is used by nobody any more
        self.number = WeakTensorKeyDictionary()
        self.inside: list[Values] = []  # what the layers that are running have taken
        self._count = 0

    def values(self, tree: Any) -> Values:
        """The numbers of the tensors in nested containers."""
        return tuple(
            self.number[leaf] if leaf in self.number else self._new(leaf)
            for leaf in tree_leaves(tree)
            if isinstance(leaf, Tensor)
        )

    def _new(self, tensor: Tensor) -> int:
        self._count += 1
        self.number[tensor] = self._count
        return self._count

    def _made(self, tree: Any) -> tuple[Values, tuple[int, ...] | None]:
        tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
        return tuple(map(self._new, tensors)), tuple(tensors[0].shape) if tensors and not tensors[
            0
        ].is_nested else None

    def hooks(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        """What runs before and after the layer of a name."""

        def enter(_: nn.Module, arguments: Any, options: Any) -> None:
            self.inside.append(self.values((arguments, options)))

        def leave(layer: nn.Module, _: Any, output: Any) -> None:
            inputs = self.inside.pop()
            if not self.inside:
                self.flow.add(Step(name, type(layer).__name__, inputs, *self._made(output)))

        return enter, leave

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self.inside:
            inputs = self.values((args, kwargs))
            self.flow.add(Step("", func.overloadpacket.__name__, inputs, *self._made(output)))
        return output


def _trace(model: nn.Module) -> DataFlow | None:
    try:
        graph = fx.Tracer().trace(model)
    except Exception:  # noqa: BLE001 - tracing runs the model's own code, which may raise anything
        return None
    flow = DataFlow(model)
    number = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        inputs = tuple(number[source] for source in _sources(node))
        if node.op == "get_attr":
            flow.parameters[str(node.target)] = number[node]
        elif node.op == "call_module":
            name = str(node.target)
            kind = type(model.get_submodule(name)).__name__
            flow.add(Step(name, kind, inputs, (number[node],)))
        elif node.op != "placeholder":
            function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
            flow.add(Step("", function, inputs, (number[node],)))
    return flow


def _sources(node: fx.Node) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), lambda source: found.append(source) or source)
    return found
