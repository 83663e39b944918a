"""Rules of operations that compute: elementwise ones, products, norms, reductions, attention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from athena_compress._dependency_align import align, broadcast, dropped, operand
from athena_compress._dependency_labels import Array, Block, Labels
from athena_compress._dependency_rules import Attention, Call, rule, tensors_in


def elementwise(call: Call) -> list[list[Block]]:
    """Equal indices of all tensors belong together."""
    tensors = tensors_in(list(call.args)) + tensors_in(list(call.kwargs.values()))
    shape = call.shapes[0] if call.shapes else ()
    return [broadcast(call.book, tensors, shape, call.constant)] * len(call.shapes)


rule("copy_", "copy", "native_dropout", "lerp_", "_prelu_kernel", "_fused_dropout")(elementwise)
rule("hardswish", "hardtanh", "leaky_relu", "elu", "celu", "softplus", "log_sigmoid_forward", "relu6")(
    elementwise
)
rule("hardsigmoid", "softshrink", "hardshrink", "threshold", "mish", "selu", "rrelu_with_noise")(elementwise)
rule("addcmul", "addcdiv", "masked_fill", "masked_fill_", "bernoulli", "bernoulli_", "dropout")(elementwise)


@rule("clone", "detach", "alias", "lift_fresh", "lift_fresh_copy", "_to_copy", "contiguous", "to", "detach_")
def _same(call: Call) -> list[list[Block]]:
    return [call.args[0].blocks] * len(call.shapes)


rule("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like")(_same)
rule("fill_", "zero_", "normal_", "uniform_", "random_", "exponential_", "fill", "normal")(_same)


@rule("zeros", "ones", "full", "empty", "rand", "randn", "new_zeros", "new_ones", "new_full", "new_empty")
def _factory(call: Call) -> list[list[Block]]:
    # Of whatever size they meet: the code may take it from there, which the run after a removal proves.
    return [[Block((d,), call.book.fresh(n), (-1,), True) for d, n in enumerate(call.shapes[0]) if n > 1]]


@rule("arange", "linspace", "eye", "scalar_tensor", "tril_indices", "triu_indices", "randperm", "randint")
def _counted(call: Call) -> list[list[Block]]:
    return [[] for _ in call.shapes]


@rule("_local_scalar_dense", "sym_size", "is_same_size", "equal", "_assert_async", "is_nonzero")
def _looked_at(call: Call) -> list[list[Block]]:
    return [[] for _ in call.shapes]


def _product(
    call: Call, one: Labels, other: Labels, places: tuple[tuple[int, ...], tuple[int, ...]]
) -> list[Block]:
    """Blocks of a product in the dimensions of the operation, of which the greatest is summed over."""
    summed = max(places[0])
    sizes = {
        place: size for at in (0, 1) for place, size in zip(places[at], (one, other)[at].shape, strict=True)
    }
    operands = [
        operand(call.book, tensor, at, sizes) for tensor, at in zip((one, other), places, strict=True)
    ]
    batch = set(places[0]) & set(places[1]) - {summed}
    for tensor, its in zip((one, other), operands, strict=True):
        if tensor.level == 0:
            call.book.made += [
                block.labels.reshape(-1) for block in its.blocks if not set(block.dims) & {*batch, summed}
            ]
    if one.level and other.level:
        _note_heads(call, operands[0].blocks, operands[1].blocks, batch, sizes[summed])
        why = f"two activations are multiplied over them, at {call.place}"
        for its in operands:
            its.blocks = call.book.close_all(its.blocks, {summed}, why)
            its.constant.add(summed)
    blocks = align(call.book, operands, call.constant)
    single = [block for block in blocks if block.dims != (summed,)]
    return call.book.close_all(single, {summed}, call.constant)


def _note_heads(call: Call, one: list[Block], other: list[Block], batch: set[int], width: int) -> None:
    """Where two activations are multiplied, what stands beside the sum and is in both are heads."""
    found = []
    for blocks in (one, other):
        block = next((block for block in blocks if set(block.dims) & batch), None)
        if block is None:
            found.append(np.empty(0, dtype=np.int64))
            continue
        at = block.dims.index(next(dim for dim in block.dims if dim in batch))
        labels = np.moveaxis(block.labels, at, 0).reshape(block.labels.shape[at], -1)[:, 0]
        # Those made by repeating a single head are not heads of their own.
        found.append(np.unique(labels)[: None if not block.weak else 0])
        call.findings.heads.append(labels)
    if len(found[0]):
        call.findings.attentions.append(Attention(call.module, found[0], found[1], width))


@rule("mm", "bmm", "mv", "dot")
def _mm(call: Call) -> list[list[Block]]:
    places = {
        "mm": ((0, 2), (2, 1)),
        "bmm": ((0, 1, 3), (0, 3, 2)),
        "mv": ((0, 1), (1,)),
        "dot": ((0,), (0,)),
    }[call.name]
    return [_product(call, call.args[0], call.args[1], places)]


@rule("addmm", "baddbmm", "addmm_", "baddbmm_", "addmv", "_addmm_activation")
def _addmm(call: Call) -> list[list[Block]]:
    bias, one, other = call.args[:3]
    places = {3: ((0, 1, 3), (0, 3, 2)), 2: ((0, 2), (2, 1))}[len(one.shape)]
    if len(other.shape) == 1:
        places = ((0, 1), (1,))
    shape = call.shapes[0]
    product = Labels(shape, _product(call, one, other, places))
    return [broadcast(call.book, [product, bias], shape, call.constant)]


@rule("_grouped_mm")
def _grouped_mm(call: Call) -> list[list[Block]]:
    rows, experts = call.args[:2]
    if (len(rows.shape), len(experts.shape)) != (2, 3):
        call.fix_all(rows, f"{call.place} is not followed")
        call.fix_all(experts, f"{call.place} is not followed")
        return [[]]
    # rows, experts, width that is made, width that is summed over
    blocks = _product(call, rows, experts, ((0, 3), (1, 3, 2)))
    blocks = call.book.close_all(blocks, {1}, f"each row chooses one of them, at {call.place}")
    return [[block.moved({0: 0, 2: 1}) for block in blocks]]


@rule("embedding")
def _embedding(call: Call) -> list[list[Block]]:
    weight, indices = call.args[:2]
    call.book.fix(call.vector(weight, 0), "rows of an embedding are chosen by index")
    width = call.vector(weight, 1)
    call.book.made.append(width)
    return [[Block((len(indices.shape),), width, (-1,))]]


def _vectors(call: Call, labels: Array, tensors: list[Labels]) -> None:
    """Weights, biases and statistics: one number for each of these labels."""
    for tensor in tensors:
        if tensor.shape == labels.shape:
            call.book.unify(labels, call.vector(tensor, 0))


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit")
def _batch_norm(call: Call) -> list[list[Block]]:
    source = call.args[0]
    channels = call.vector(source, 1)
    _vectors(call, channels, tensors_in(list(call.args[1:])))
    call.findings.normed[call.module] = np.unique(channels)  # over an instance, each row has them all
    others = [block for block in call.book.settled(source.blocks) if 1 not in block.dims]
    return [[*others, Block((1,), channels, (-1,))]] + [[] for _ in call.shapes[1:]]


rule("cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update", "_batch_norm_with_update")(_batch_norm)


@rule("native_group_norm")
def _group_norm(call: Call) -> list[list[Block]]:
    source, weight, bias = call.args[:3]
    groups = call.args[6]
    channels = call.vector(source, 1)
    _vectors(call, channels, tensors_in([weight, bias]))
    call.findings.normed[call.module] = channels
    by_group = channels.reshape(groups, -1)
    if groups == 1:
        call.book.fix(
            channels, f"a normalisation takes statistics over them, at {call.place}", statistics=True
        )
    else:
        call.book.unify(by_group[:, :1], by_group)
    others = [block for block in call.book.settled(source.blocks) if 1 not in block.dims]
    return [[*others, Block((1,), channels, (-1,))], [], []]


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm", "layer_norm")
def _layer_norm(call: Call) -> list[list[Block]]:
    source, sizes = call.args[:2]
    dims = set(range(len(source.shape) - len(sizes), len(source.shape)))
    weights = [one for one in tensors_in(list(call.args[2:])) if len(one.shape) == len(sizes)]
    why = f"a normalisation takes statistics over them, at {call.place}"
    blocks = call.book.settled(source.blocks)
    call.book.close_all(blocks, dims, why, statistics=True)
    labels = replace(source, blocks=call.book.settled(blocks))
    return [broadcast(call.book, [labels, *weights], source.shape, call.constant)] + [
        [] for _ in call.shapes[1:]
    ]


@rule("_weight_norm_interface", "_weight_norm")
def _weight_norm(call: Call) -> list[list[Block]]:
    direction, length = call.args[:2]
    blocks = broadcast(call.book, [direction, length], direction.shape, call.constant)
    return [blocks] + [dropped(blocks, set(range(1, len(direction.shape))))] * (len(call.shapes) - 1)


STATISTICS = ("mean", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm")


@rule(*STATISTICS, "sum", "amax", "amin", "max", "min", "prod", "logsumexp", "any", "all", "argmax", "argmin")
def _reduce(call: Call) -> list[list[Block]]:
    source = call.args[0]
    asked = call.get(2 if "norm" in call.name else 1, "dim")
    if isinstance(asked, Labels):  # of two tensors, `max` is elementwise
        return elementwise(call)
    listed = [asked] if isinstance(asked, int) else asked if isinstance(asked, (list, tuple)) else []
    reduced = listed or range(len(source.shape))  # none named: all
    dims = {call.dim(dim, source) for dim in reduced}
    blocks = call.book.settled(source.blocks)
    exact = call.name == "sum" or ("norm" in call.name and source.level == 0)  # zeros add nothing to these
    if exact:
        blocks = [block for block in blocks if len(block.dims) > 1 or not set(block.dims) & dims]
    statistics = call.name in STATISTICS
    verb = "a normalisation takes statistics over them, at" if statistics else "they are compared at"
    blocks = call.book.close_all(blocks, dims, f"{verb} {call.place}", statistics=statistics)
    if call.shapes and len(call.shapes[0]) == len(source.shape):
        return [blocks] * len(call.shapes)
    kept = [dim for dim in range(len(source.shape)) if dim not in dims]
    places = {old: new for new, old in enumerate(kept)}
    return [[block.moved(places) for block in blocks]] * len(call.shapes)


@rule(
    "_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "cumprod", "flip", "roll", "sort", "topk"
)
def _along(call: Call) -> list[list[Block]]:
    source = call.args[0]
    asked = call.get(
        2 if call.name in ("roll", "topk") else 1, "dims" if call.name in ("flip", "roll") else "dim", -1
    )
    asked = [asked] if isinstance(asked, int) else asked or range(len(source.shape))
    dims = {call.dim(dim, source) for dim in asked}
    blocks = call.book.close_all(call.book.settled(source.blocks), dims, f"{call.place} works along them")
    return [blocks] * len(call.shapes)


@rule("triu", "tril", "triu_", "tril_", "cdist", "unfold")
def _last(call: Call) -> list[list[Block]]:
    source = call.args[0]
    dims = set(range(max(len(source.shape) - 2, 0), len(source.shape)))
    if call.name == "unfold":
        dims = {call.dim(call.get(1, "dimension"), source)}
    return [call.book.close_all(call.book.settled(source.blocks), dims, f"{call.place} works along them")]


@rule("index_select", "gather", "take_along_dim")
def _index_select(call: Call) -> list[list[Block]]:
    source, dim = call.args[0], call.dim(call.args[1], call.args[0])
    others = set(range(len(source.shape))) if call.name != "index_select" else {dim}
    why = f"{call.place} chooses them by index"
    return [call.book.close_all(call.book.settled(source.blocks), others, why)]


@rule("index")
def _index(call: Call) -> list[list[Block]]:
    source, indices = call.args[:2]
    chosen = [dim for dim, index in enumerate(indices) if index is not None]
    span = set(chosen)
    if any(len(indices[dim].shape) != 1 for dim in chosen) and len(chosen) > 1:
        span = set(range(len(source.shape)))  # masks and grids: what stays where is not followed
    blocks = call.book.close_all(
        call.book.settled(source.blocks), span, f"{call.place} chooses them by index"
    )
    grown = len(call.shapes[0]) - len(source.shape)
    if len(chosen) > 1 and chosen != list(range(chosen[0], chosen[-1] + 1)):
        return [call.book.close_all(blocks, set(range(len(source.shape))), f"{call.place} moves them")]
    places = {dim: dim if dim < chosen[0] else dim + grown for dim in range(len(source.shape))}
    return [[block.moved(places) for block in blocks]]


def _aligned(labels: Labels, count: int) -> tuple[int, ...]:
    """Places of a mask's dimensions, from the last of those of the scores."""
    return tuple(range(count - len(labels.shape), count))


def attention(call: Call) -> list[list[Block]]:
    """Scaled dot-product attention: heads are units, their widths and the tokens keep their sizes."""
    query, key, value = call.args[:3]
    masks = tensors_in([call.get(3, "attn_mask"), call.get(3, "attn_bias")])
    kv = [_repeated(call, one, query) for one in (key, value)]
    # batch, heads, queries, keys, width, width of values
    tensors = [query, *kv, *[mask for mask in masks if len(mask.shape) <= 4][:1]]
    places: list[tuple[int, ...]] = [(0, 1, 2, 4), (0, 1, 3, 4), (0, 1, 3, 5)]
    places += [_aligned(mask, 4) for mask in tensors[3:]]
    sizes = dict(enumerate((*query.shape[:3], key.shape[2], query.shape[3], value.shape[3])))
    operands = [operand(call.book, tensor, at, sizes) for tensor, at in zip(tensors, places, strict=True)]
    why = f"two activations are multiplied over them, at {call.place}"
    for its in operands:
        its.blocks = call.book.close_all(its.blocks, {2, 3, 4}, why)
    grouped = [operand(call.book, key, (0, 1, 3, 4), sizes | {1: key.shape[1]})]
    _note_heads(
        call, operands[0].blocks, call.book.close_all(grouped[0].blocks, {3, 4}, why), {1}, query.shape[3]
    )
    if query.shape[1] == 1:
        why = f"they are the width of a single head, at {call.place}"
        operands[2].blocks = call.book.close_all(operands[2].blocks, {5}, why)
    blocks = align(call.book, operands, call.constant)
    return [[block.moved({0: 0, 1: 1, 5: 3}) for block in blocks]] + [[] for _ in call.shapes[1:]]


for _kernel in ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention"):
    rule(f"_scaled_dot_product_{_kernel}")(attention)
rule("_scaled_dot_product_fused_attention_overrideable")(attention)


def _repeated(call: Call, labels: Labels, query: Labels) -> Labels:
    """Keys or values, each head repeated for the query heads that share it."""
    heads, times = labels.shape[1], query.shape[1] // labels.shape[1]
    if times > 1 == heads:
        for block in labels.blocks:
            call.book.fix(block.labels, f"all query heads share the only key-value head, at {call.place}")
    if times == 1 or heads == 1:
        return labels
    blocks = [
        replace(block, labels=np.repeat(block.labels, times, axis=block.dims.index(1)))
        if 1 in block.dims
        else block
        for block in call.book.settled(labels.blocks)
    ]
    return replace(labels, shape=(labels.shape[0], query.shape[1], *labels.shape[2:]), blocks=blocks)
