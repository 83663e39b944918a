"""What athena-explore offers: bonuses, and a recipe."""

from __future__ import annotations

from athena_core import Component, Kind, components_of, hookimpl, kinds_of

# name, target, summary, paper
TABLES: dict[str, list[tuple[str, str, str, str]]] = {
    "bonus": [
        ("counts", "athena_explore:Counts", "How seldom a state was visited", "JCSS 74, 2008"),
        ("disagreement", "athena_explore:Disagreement", "The variance of forward models", "arXiv:1906.04161"),
        ("e3b", "athena_explore:E3B", "Elliptical bonuses within an episode", "arXiv:2210.05805"),
        ("icm", "athena_explore:ICM", "The error of predicting where actions lead", "arXiv:1705.05363"),
        ("learned-hash", "athena_explore:LearnedHash", "Counts of learned binary codes", "arXiv:1611.04717"),
        ("ngu", "athena_explore:NGU", "Unlike its episode, times unlike all before", "arXiv:2002.06038"),
        ("noveld", "athena_explore:NovelD", "The gain in novelty, once an episode", "NeurIPS 2021"),
        ("pseudo-counts", "athena_explore:PseudoCounts", "Counts from a density model", "arXiv:1606.01868"),
        ("re3", "athena_explore:RE3", "The distance to the nearest neighbours", "arXiv:2102.09430"),
        ("ride", "athena_explore:RIDE", "The change of features that actions affect", "arXiv:2002.12292"),
        ("rnd", "athena_explore:RND", "The error of predicting a random network", "arXiv:1810.12894"),
        ("sim-hash", "athena_explore:SimHash", "Counts of random projections' signs", "arXiv:1611.04717"),
    ],
    "recipe": [
        ("explore", "athena_explore:Explore", "Any bonus in any environment, with pictures", ""),
    ],
}
NEEDS = {"recipe": ("matplotlib>=3.9", "pillow>=10.3", "stable-baselines3>=2.7", "sb3-contrib>=2.7")}
# name, interface, summary; its laws are in `_NAME_laws`
KINDS = [
    ("bonus", "athena_explore:Bonus", "An intrinsic reward for every transition"),
]


@hookimpl
def athena_kinds() -> list[Kind]:
    return kinds_of("athena_explore", KINDS)


@hookimpl
def athena_components() -> list[Component]:
    return components_of(TABLES, NEEDS)
