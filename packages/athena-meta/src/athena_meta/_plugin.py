"""What athena-meta offers: learners, inner updates, few-shot data, families of tasks, and recipes."""

from __future__ import annotations

from athena_core import Component, Kind, components_of, hookimpl, kinds_of

# name, target, summary, paper
TABLES: dict[str, list[tuple[str, str, str, str]]] = {
    "few-shot-learner": [
        ("anil", "athena_meta:ANIL", "MAML that adapts the head alone", "arXiv:1909.09157"),
        ("baseline", "athena_meta:Baseline", "A linear head for each task", "arXiv:1904.04232"),
        ("baseline-pp", "athena_meta:BaselinePlusPlus", "A cosine head for each task", "arXiv:1904.04232"),
        ("implicit-maml", "athena_meta:ImplicitMAML", "MAML by implicit gradients", "arXiv:1909.04630"),
        ("maml", "athena_meta:MAML", "A start that few gradient steps adapt", "arXiv:1703.03400"),
        ("maml-plus-plus", "athena_meta:MAMLPlusPlus", "MAML made stable", "arXiv:1810.09502"),
        ("matching", "athena_meta:MatchingNetwork", "Attention over the support set", "arXiv:1606.04080"),
        ("meta-sgd", "athena_meta:MetaSGD", "MAML with a learned rate an element", "arXiv:1707.09835"),
        ("prototypical", "athena_meta:PrototypicalNetwork", "The nearest class mean", "arXiv:1703.05175"),
        ("relation", "athena_meta:RelationNetwork", "A learned comparison", "arXiv:1711.06025"),
        ("reptile", "athena_meta:Reptile", "Moves to where training ends", "arXiv:1803.02999"),
    ],
    "inner-update": [
        ("adam", "athena_meta:InnerAdam", "Adam that can be differentiated", "arXiv:1412.6980"),
        ("descent", "athena_meta:Descent", "Plain gradient descent", "arXiv:1703.03400"),
        (
            "elementwise-descent",
            "athena_meta:ElementwiseDescent",
            "Descent with a learned rate an element",
            "arXiv:1707.09835",
        ),
        ("layerwise-descent", "athena_meta:LayerwiseDescent", "A rate a layer and step", "arXiv:1810.09502"),
        ("momentum", "athena_meta:InnerMomentum", "Descent with momentum", "Sutskever et al. 2013"),
    ],
    "few-shot-data": [
        ("cifar-fs", "athena_meta:CIFARFS", "CIFAR-100's classes, divided, from files", "arXiv:1805.08136"),
        ("class-folders", "athena_meta:ClassFolders", "Any folder of class folders", ""),
        ("glyphs", "athena_meta:Glyphs", "Invented handwriting, drawn by rule", ""),
        ("mini-imagenet", "athena_meta:MiniImageNet", "100 classes, from files", "arXiv:1606.04080"),
        ("omniglot", "athena_meta:Omniglot", "Handwriting of 50 alphabets, from files", "Lake et al. 2015"),
        ("tiered-imagenet", "athena_meta:TieredImageNet", "608 classes, from files", "arXiv:1803.00676"),
    ],
    "task-family": [
        ("harmonics", "athena_meta:Harmonics", "Sums of two sine waves", "Lacoste et al. 2018"),
        ("lines", "athena_meta:Lines", "Straight lines", "Finn et al. 2018"),
        ("sinusoids", "athena_meta:Sinusoids", "Sine waves, amplitude and phase", "Finn et al. 2017"),
    ],
    "recipe": [
        ("few-shot", "athena_meta:FewShot", "Any few-shot learner on any few-shot data", "arXiv:1703.05175"),
        ("sinusoid", "athena_meta:Sinusoid", "Sine waves from a few points", "arXiv:1703.03400"),
    ],
}
NEEDS = {"recipe": ("matplotlib>=3.9",)}  # pictures
# name, interface, summary; its laws are in `_NAME_laws`
KINDS = [
    ("few-shot-data", "athena_meta:FewShotDataset", "Images of many classes, few of each"),
    ("few-shot-learner", "athena_meta:FewShotLearner", "Learns a new task from few examples"),
    ("inner-update", "athena_meta:InnerUpdate", "A step of the inner loop, as a pure function"),
    ("task-family", "athena_meta:RegressionTasks", "Numbered episodes of regression tasks"),
]


@hookimpl
def athena_kinds() -> list[Kind]:
    return kinds_of("athena_meta", KINDS)


@hookimpl
def athena_components() -> list[Component]:
    return components_of(TABLES, NEEDS)
