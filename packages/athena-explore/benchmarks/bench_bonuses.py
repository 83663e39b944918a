"""Score and update of 128 x 8 transitions: RND, ICM, E3B and disagreement beside RLLTE's classes.

    python bench_bonuses.py [--repeats 15] [--json FILE] [--threads 2]

Both have the same networks, normalisers and number of gradient steps, one epoch of 4 minibatches of 256, and
start from the same rewards. The observations are vectors of 8 numbers, and images of 4 x 84 x 84.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache, partial
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.spaces import Space
from torch import Tensor, nn

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_explore import E3B, ICM, RND, Bonus, Disagreement, Encoder, Transition

STEPS, ENVIRONMENTS, WIDTH = 128, 8, 128
ACTIONS = spaces.Discrete(6)
OBSERVATIONS: dict[str, spaces.Box] = {
    "vectors": spaces.Box(-4, 4, (8,), np.float32),
    "images": spaces.Box(0, 255, (4, 84, 84), np.uint8),
}
OURS: dict[str, type[Bonus]] = {"RND": RND, "ICM": ICM, "E3B": E3B, "Disagreement": Disagreement}
NORMALIZED = {"RND", "Disagreement"}  # those that normalise observations
UNUSED = ("termcolor", "pynvml")


@cache
def rllte() -> tuple[ModuleType, type]:
    """The peer's bonuses and statistics, without what else it imports and does not use here."""
    stubs = {name: ModuleType(name) for name in UNUSED}
    for stub in stubs.values():
        stub.__getattr__ = lambda _: MagicMock()  # type: ignore[method-assign]
    with patch.dict(sys.modules, stubs):
        from rllte.common.utils import TorchRunningMeanStd
        from rllte.xplore import reward
    return reward, TorchRunningMeanStd


def encoder(space: Space, width: int) -> nn.Module:
    """The peer's network."""
    if len(space.shape or ()) == 1:
        return Encoder(space, width, hidden=(256,))
    return nn.Sequential(Encoder(space, width, hidden=()), nn.ReLU())


def ours(name: str, space: Space, *, normalize: Any = "return") -> Bonus:
    options = {"members": 4} if name == "Disagreement" else {}
    return OURS[name](
        space,
        ACTIONS,
        normalize=normalize,
        width=WIDTH,
        hidden=(256,),
        encoder=encoder,
        minibatches=4,
        **options,
    )


def peer(name: str, space: Space, *, normalize: str = "rms") -> Any:
    bonuses, moments = rllte()
    envs = SimpleNamespace(observation_space=space, action_space=ACTIONS)
    envs.unwrapped = SimpleNamespace(num_envs=ENVIRONMENTS)
    made = getattr(bonuses, name)(
        envs, rwd_norm_type=normalize, obs_norm_type="none", gamma=0.99 if normalize == "rms" else None
    )
    if name in NORMALIZED and normalize == "rms":  # set late, since it would step the environments for it
        made.obs_norm, made.obs_norm_type = moments(shape=space.shape), "rms"
    return made


def rollout(space: Space) -> Transition:
    """Of random observations, with an end about every 50 rows."""
    shape = (STEPS + 1, ENVIRONMENTS, *(space.shape or ()))
    image = len(shape) > 3
    every = torch.randint(256, shape, dtype=torch.uint8) if image else torch.randn(shape).clamp(-4, 4)
    terminated, truncated = torch.rand(2, STEPS, ENVIRONMENTS) < 0.01
    obs, next_obs = every[:-1].clone(), every[1:].clone()
    obs[1:][(terminated | truncated)[:-1]] = 0
    return Transition(obs, torch.randint(6, (STEPS, ENVIRONMENTS)), next_obs, terminated, truncated)


def samples(transition: Transition) -> dict[str, Tensor]:
    """What the peer takes: floats, since it does not convert."""
    return {
        "observations": transition.obs.float(),
        "actions": transition.action,
        "rewards": torch.zeros(transition.shape),
        "terminateds": transition.terminated,
        "truncateds": transition.truncated,
        "next_observations": transition.next_obs.float(),
    }


def assert_same_rewards(name: str, space: Space, transition: Transition) -> None:
    """With the same weights, and no normaliser of either."""
    mine, its = ours(name, space, normalize="none"), peer(name, space, normalize="none")
    image = len(space.shape or ()) > 1
    observations = mine.observations if isinstance(mine, RND) else mine.features.observations  # type: ignore[union-attr]
    if observations is not None:
        moments = observations.moments[0]
        moments.count += 1
        moments.variance += 255**2 if image else 1
    for weight, wanted in zip(mine.parameters(), weights(mine, its), strict=True):
        weight.copy_(wanted)
    asked = samples(transition)
    if name == "E3B":  # it scores the observation that the action was taken in
        asked["observations"] = asked["next_observations"]
    # it takes the mean over features, and a variance of four over three
    factor = {"ICM": 2 / WIDTH, "Disagreement": 4 / 3 / WIDTH}.get(name, 1)
    expected = its.compute(asked, sync=False)
    torch.testing.assert_close(factor * mine.score(transition), expected, rtol=1e-3, atol=1e-4)


def weights(mine: Any, its: Any) -> Iterator[Tensor]:
    """The peer's weights in the order of our parameters."""
    if isinstance(mine, RND):
        parts = [its.target, its.predictor]
    elif isinstance(mine, Disagreement):
        parts = [its.random_encoder]
    else:
        parts = [its.encoder, its.im, *([its.fm] if isinstance(mine, ICM) else [])]
    for part in parts:
        yield from part.parameters()
    if isinstance(mine, Disagreement):
        members = [torch.stack(one) for one in zip(*(m.parameters() for m in its.ensemble), strict=True)]
        yield from (weight.mT for weight in members[::2])
        yield from (bias[:, None] for bias in members[1::2])


def case(name: str, kind: str, *, repeats: int) -> dict[str, Any]:
    space = OBSERVATIONS[kind]
    transition = rollout(space)
    with torch.no_grad():
        assert_same_rewards(name, space, transition)
    mine, its = ours(name, space), peer(name, space)
    asked = samples(transition)

    def score_and_update() -> None:
        mine.score(transition)
        mine.update(transition)

    works = (score_and_update, partial(its.compute, asked))
    for work in works:
        work()
    took, other = (1e3 * time for time in medians(repeats, *(partial(seconds, work) for work in works)))
    return row(f"{name}, {kind}", ours=took, peers={"RLLTE": other}, unit="ms")


def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    for kind in OBSERVATIONS:
        for name in OURS:
            yield case(name, kind, repeats=repeats if kind == "vectors" else max(1, repeats // 5))


if __name__ == "__main__":
    run(parser(__doc__, repeats=15), rows)
