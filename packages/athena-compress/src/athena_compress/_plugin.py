"""What athena-compress offers: observers, schemes, losses, importances, schedules, and its recipe."""

from __future__ import annotations

from athena_core import Component, Kind, components_of, hookimpl, kinds_of

# name, target, summary, paper
TABLES = {
    "observer": [
        (
            "histogram",
            "athena_compress:HistogramObserver",
            "Clipping of least divergence",
            "arXiv:2004.09602",
        ),
        ("min-max", "athena_compress:MinMaxObserver", "The whole range seen", "arXiv:1806.08342"),
        ("moving-average", "athena_compress:MovingAverageObserver", "Averaged extremes", "arXiv:1712.05877"),
        ("mse", "athena_compress:MSEObserver", "Clipping of least squared error", "arXiv:1511.06488"),
        ("percentile", "athena_compress:PercentileObserver", "A share of the values", "arXiv:2004.09602"),
    ],
    "quantization-scheme": [
        ("int8-dynamic", "athena_compress:Int8Dynamic", "8 bits, scales as inputs come", "arXiv:2206.01861"),
        ("int8-static", "athena_compress:Int8Static", "8 bits, inputs' grids calibrated", "arXiv:1712.05877"),
        ("int8-weight-only", "athena_compress:WeightOnly", "Weights of 8 bits alone", "arXiv:2208.07339"),
        (
            "int4-weight-only",
            "athena_compress:Int4WeightOnly",
            "Weights of 4 bits in groups",
            "arXiv:2210.17323",
        ),
    ],
    "feature-loss": [
        ("mse", "athena_compress:FeatureMSE", "Squared difference of features: hints", "arXiv:1412.6550"),
        ("cosine", "athena_compress:FeatureCosine", "Angle between features", "arXiv:1910.01108"),
        ("attention-transfer", "athena_compress:AttentionTransfer", "Maps of activity", "arXiv:1612.03928"),
        ("relational", "athena_compress:Relational", "Distances and angles of examples", "arXiv:1904.05068"),
        ("cka", "athena_compress:CKA", "Linear centred kernel alignment", "arXiv:1905.00414"),
    ],
    "importance": [
        ("magnitude", "athena_compress:Magnitude", "Large weights matter", "arXiv:1506.02626"),
        ("random", "athena_compress:RandomImportance", "Seeded and uniform, as a baseline", ""),
        ("movement", "athena_compress:Movement", "Weights that leave zero matter", "arXiv:2005.07683"),
        ("taylor", "athena_compress:Taylor", "Change of the loss to first order", "arXiv:1906.10771"),
        ("wanda", "athena_compress:Wanda", "Magnitude times the norm of the input", "arXiv:2306.11695"),
        ("lamp", "athena_compress:Lamp", "Magnitudes comparable between layers", "arXiv:2010.07611"),
    ],
    "sparsity-schedule": [
        ("constant", "athena_compress:ConstantSchedule", "One-shot: all at one step", "arXiv:1506.02626"),
        ("linear", "athena_compress:LinearSchedule", "Along a line", ""),
        ("cubic", "athena_compress:CubicSchedule", "Fast first, slow at the end", "arXiv:1710.01878"),
        ("exponential", "athena_compress:ExponentialSchedule", "A share of the rest", "arXiv:1803.03635"),
        ("component", "athena_compress:ComponentSchedule", "As a learning rate falls", ""),
    ],
    "recipe": [
        (
            "compress",
            "athena_compress._recipe_compress:Compress",
            "Train, prune, distil, quantize; measured",
            "",
        ),
        (
            "digits",
            "athena_compress._recipe_digits:DigitsNet",
            "Trains a small network on images of digits",
            "",
        ),
    ],
}
# the data of `digits`, and pictures
NEEDS = {"recipe": ("scikit-learn>=1.5", "matplotlib>=3.9")}
# name, interface, summary; its laws are in `_NAME_laws`
KINDS = [
    ("feature-loss", "athena_compress:FeatureLoss", "How far a student's feature is from a teacher's"),
    ("importance", "athena_compress:Importance", "How much weights matter"),
    ("observer", "athena_compress:Observer", "Remembers the range of the values that go through it"),
    ("quantization-scheme", "athena_compress:Scheme", "What a layer becomes when it is quantized"),
    ("sparsity-schedule", "athena_compress:SparsitySchedule", "Which share is pruned by which step"),
]


@hookimpl
def athena_kinds() -> list[Kind]:
    return kinds_of("athena_compress", KINDS)


@hookimpl
def athena_components() -> list[Component]:
    return components_of(TABLES, NEEDS)
