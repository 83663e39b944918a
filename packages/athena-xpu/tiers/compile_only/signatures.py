"""Every kernel, as it is launched; sorted by kernel."""

from __future__ import annotations

import triton.language as tl
from compiling import Signature

_WHOLE = {"ROWS": 1, "BLOCK": 8192}
_NARROW = {"ROWS": 128, "BLOCK": 16}
_HEADS_LAST = (
    "*t *t *t *t i32:16 i32:16 i32 i32:16 i32:16 i32:16 i32:16 i32:16 i32:16 i32 i32:16 i32 i32:16 i32:16"
)
_ROTATE = {"INVERSE": False}
_SUM = {"PIECE": 64, "TALL": 8}
_WIDE = {"ROWS": 1, "BLOCK": 2048}
_WALK = {"ROWS": 1, "BLOCK": 4096}
_TURN = {"HAS_BIAS": False, "SMOOTHED": False, "SLOPES": True}
_LISTS = {"CHUNK": 8192, "BLOCK": 1024}
_DTYPES = (tl.float32, tl.bfloat16, tl.float16)  # lists of tensors: behind pointers that are read
_EXACT = {"enable_fp_fusion": False}
_ALIGNED = "*i8 *i8 *fp32 *fp32 *t none none *t i32:16 i32:16 i32:16 i32:16"
_ODD = "*i8 *i8 *fp32 *fp32 none *i32 *i32 *t i32 i32 i32 i32:16"

SIGNATURES = [
    *[
        Signature(
            "adamw._step",
            "*i64 *i32 fp32 fp32 fp32 fp32 fp32 fp32 fp32 fp32",
            {"SIGN": sign, "DTYPE": dtype, **_LISTS},
            {"num_warps": 4},
            ("fp32",),
        )
        for dtype, sign in zip(_DTYPES, (1, -1, 1), strict=True)
    ],
    Signature(
        "embedding._sum_pieces",
        "*t *i64 *i64 *fp32 i32:16 i32",
        {**_SUM, "BLOCK": 1024},
        {"num_warps": 8},
    ),
    Signature(
        "embedding._sum_pieces",
        "*t *i32 *i64 *fp32 1 i32",
        {**_SUM, "BLOCK": 16},
        {"num_warps": 1},
    ),
    Signature(
        "embedding._sum_words",
        "*t *i64 *i64 *fp32 *t i32:16 i32",
        {**_SUM, "BLOCK": 1024},
        {"num_warps": 8},
    ),
    Signature(
        "embedding._sum_words",
        "*t *i64 *i64 *fp32 *t 1 i32",
        {**_SUM, "BLOCK": 16},
        {"num_warps": 1},
    ),
    Signature("geglu._backward", "*t *t *t i32 i32:16 i32:16", _WIDE, {"num_warps": 8}),
    Signature("geglu._backward", "*t *t *t i32 1 i32", _NARROW, {"num_warps": 8}),
    Signature("geglu._forward", "*t *t i32 i32:16 i32:16", _WIDE, {"num_warps": 8}),
    Signature("geglu._forward", "*t *t i32 1 i32", _NARROW, {"num_warps": 8}),
    Signature(
        "int8_codes._quantize",
        "*t *i8 *fp32 none i32 i32:16 i32:16 i32:16",
        {"TALL": 1, "BLOCK": 4096, "ONCE": True, "STATIC": False},
        {"num_warps": 8, **_EXACT},
    ),
    Signature(
        "int8_codes._quantize",
        "*t *i8 *fp32 *i32 i32 1 1 i32:16",
        {"TALL": 128, "BLOCK": 16, "ONCE": True, "STATIC": True},
        {"num_warps": 4, **_EXACT},
    ),
    Signature(
        "int8_codes._quantize",
        "*t *i8 *fp32 none i32 i32 i32 i32:16",
        {"TALL": 1, "BLOCK": 16384, "ONCE": False, "STATIC": False},
        {"num_warps": 16, **_EXACT},
    ),
    Signature(
        "int8_codes._sum_weights",
        "*i8 *i32 i32:16 i32:16",
        {"TALL": 1, "BLOCK": 4096},
        {"num_warps": 8},
        ("fp32",),
    ),
    Signature(
        "int8_linear._multiply",
        _ALIGNED,
        {"ROWS": 4096, "STATIC": False, "BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64},
        {"num_warps": 4, "num_stages": 4, **_EXACT},
    ),
    Signature(
        "int8_linear._multiply",
        _ODD,
        {"ROWS": 16, "STATIC": True, "BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 128},
        {"num_warps": 4, "num_stages": 4, **_EXACT},
        ("bf16",),
    ),
    *[
        Signature(
            "lamb._apply",
            "*i64 *i32 *fp32 fp32 fp32 fp32 fp32 fp32",
            {"CORRECTS": True, "DTYPE": dtype, **_LISTS},
            {"num_warps": 4},
            ("fp32",),
        )
        for dtype in _DTYPES
    ],
    *[
        Signature(
            "lamb._moments",
            f"*i64 *i32 {sums} {norm} fp32 fp32 fp32 fp32 fp32 fp32 fp32 fp32",
            {"SIGN": 1, "ADAPTS": sums != "none", "CORRECTS": sums != "none", "DTYPE": dtype, **_LISTS},
            {"num_warps": 4},
            ("fp32",),
        )
        for dtype in _DTYPES
        for sums, norm in (("*fp32", "*fp32"), ("none", "none"))
    ],
    Signature(
        "lamb._ratios",
        "*i64 *fp32 *fp32 fp32 fp32",
        {"CHUNK": 8192, "BLOCK": 4096},
        {"num_warps": 8},
        ("fp32",),
    ),
    Signature(
        "linear_cross_entropy._turn",
        "*t *i64 none *fp32 i32:16 i32 fp32",
        {**_TURN, "BLOCK": 8192},
        {"num_warps": 8},
    ),
    Signature(
        "linear_cross_entropy._turn",
        "*t *i32 *t *fp32 i32 i32 fp32",
        {"HAS_BIAS": True, "SMOOTHED": True, "SLOPES": True, "BLOCK": 16},
        {"num_warps": 1},
    ),
    Signature(
        "linear_cross_entropy._turn",
        "*t *i64 none *fp32 1 i32 fp32",
        {**_TURN, "SLOPES": False, "BLOCK": 16},
        {"num_warps": 1},
    ),
    Signature(
        "norm_rows.walk",
        "*t none none *t *t *t i32 i32:16 i32:16 i32:16 fp32",
        {**_WALK, "CENTRED": True},
        {"num_warps": 16},
        ("bf16",),
    ),
    Signature(
        "norm_rows.walk",
        "*t *t *t *t none *t i32 i32:16 i32:16 i32:16 fp32",
        {**_WALK, "CENTRED": False},
        {"num_warps": 16},
        ("bf16",),
    ),
    Signature(
        "norm_rows.walk_backward",
        "*t none *t none *t *t none *fp32 *fp32 i32 i32:16 i32:16 i32:16 fp32 i32",
        {**_WALK, "CENTRED": True},
        {"num_warps": 16},
        ("bf16",),
    ),
    Signature(
        "norm_rows.walk_backward",
        "*t *t *t *t *t *t none *fp32 none i32 i32:16 i32:16 i32:16 fp32 1",
        {**_WALK, "CENTRED": False},
        {"num_warps": 16},
        ("bf16",),
    ),
    Signature(
        "norm_rows.whole",
        "*t none none *t none *t i32 i32:16 i32:16 i32:16 fp32",
        {**_WHOLE, "CENTRED": False},
        {"num_warps": 16},
    ),
    Signature(
        "norm_rows.whole",
        "*t *t *t *t *t *t i32 i32:16 i32:16 i32:16 fp32",
        {**_WHOLE, "CENTRED": True},
        {"num_warps": 16},
    ),
    Signature(
        "norm_rows.whole",
        "*t *fp32 *fp32 *fp32 none *fp32 i32 1 i32 i32 fp32",
        {**_NARROW, "CENTRED": False},
        {"num_warps": 8},
        ("bf16",),
    ),
    Signature(
        "norm_rows.whole_backward",
        "*t none *t none *t *t none *fp32 none i32 i32:16 i32:16 i32:16 fp32 i32",
        {**_WHOLE, "CENTRED": False},
        {"num_warps": 16},
    ),
    Signature(
        "norm_rows.whole_backward",
        "*t *t *t *t *t *t none *fp32 *fp32 i32 i32:16 i32:16 i32:16 fp32 i32",
        {**_WHOLE, "CENTRED": True},
        {"num_warps": 16},
    ),
    Signature(
        "norm_rows.whole_backward",
        "*fp32 *fp32 *t *fp32 *fp32 *t *fp32 *fp32 none i32 1 i32 i32 fp32 i32:16",
        {**_NARROW, "CENTRED": False},
        {"num_warps": 8},
        ("bf16",),
    ),
    Signature(
        "rotary._turn",
        _HEADS_LAST,
        {**_ROTATE, "INTERLEAVED": False, "ROWS": 16, "PAIRS": 64, "REST": 0},
        {"num_warps": 4},
    ),
    Signature(
        "rotary._turn",
        "*t *t *t *t i32 1 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32",
        {**_ROTATE, "INTERLEAVED": False, "ROWS": 64, "PAIRS": 16, "REST": 32},
        {"num_warps": 4},
    ),
    Signature(
        "rotary._turn",
        _HEADS_LAST,
        {**_ROTATE, "INTERLEAVED": True, "ROWS": 16, "PAIRS": 64, "REST": 0},
        {"num_warps": 4},
    ),
    Signature(
        "rotary._turn",
        "*t *t *t *t 1 1 1 i32 i32 i32 i32 i32 i32 i32 i32 i32 1 i32",
        {**_ROTATE, "INTERLEAVED": True, "ROWS": 64, "PAIRS": 16, "REST": 32},
        {"num_warps": 4},
    ),
    Signature(
        "smallest._count",
        "*t *i32 *i32 i32 i32:16",
        {"SHIFT": 24, "BLOCK": 2048},
        {"num_warps": 8},
    ),
    Signature(
        "smallest._count",
        "*t *i32 *i32 i32 i32:16",
        {"SHIFT": 16, "BLOCK": 2048},
        {"num_warps": 8},
    ),
    Signature(
        "smallest._count",
        "*t *i32 *i32 i32 i32:16",
        {"SHIFT": 0, "BLOCK": 2048},
        {"num_warps": 8},
        ("fp32",),
    ),
    Signature(
        "smallest._mark",
        "*t *i32 *i32 *i1 i32 i32:16",
        {"SHIFT": 0, "PROGRAMS": 512, "BLOCK": 2048},
        {"num_warps": 8},
        ("fp32",),
    ),
    Signature(
        "smallest._mark",
        "*t *i32 *i32 *i1 i32:16 i32:16",
        {"SHIFT": 16, "PROGRAMS": 512, "BLOCK": 2048},
        {"num_warps": 8},
        ("bf16",),
    ),
    Signature(
        "smallest._mark",
        "*t *i32 *i32 *i1 1 i32:16",
        {"SHIFT": 8, "PROGRAMS": 512, "BLOCK": 2048},
        {"num_warps": 8},
        ("fp16",),
    ),
    Signature(
        "smallest._narrow", "*i32 *i32 1 i32", {"FIRST": True, "ROWS": 16}, {"num_warps": 8}, ("fp32",)
    ),
    Signature(
        "smallest._narrow", "*i32 *i32 i32:16 i32", {"FIRST": False, "ROWS": 16}, {"num_warps": 8}, ("fp32",)
    ),
    Signature("swiglu._backward", "*t *t *t i32 i32:16 i32:16", _WIDE, {"num_warps": 8}),
    Signature("swiglu._backward", "*t *t *t i32 1 i32", _NARROW, {"num_warps": 8}),
    Signature("swiglu._forward", "*t *t i32 i32:16 i32:16", _WIDE, {"num_warps": 8}),
    Signature("swiglu._forward", "*t *t i32 1 i32", _NARROW, {"num_warps": 8}),
]
