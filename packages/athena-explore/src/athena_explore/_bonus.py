"""A bonus: an intrinsic reward for each transition, from what was seen before."""

from __future__ import annotations

import copy
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn
from torch.optim import Optimizer

from athena_explore._memory import Memory
from athena_explore._return_normalizer import Filtered, ReturnNormalizer
from athena_explore._spaces import check, leaves, one_line
from athena_explore._transition import Transition

Normalization = Literal["return", "none"]
GROWN = 1e6  # a bonus beyond this is warned of


class Scored(NamedTuple):
    """What ``_score`` answers: rewards ``(T, N)`` before normalisation, and whatever ``_commit`` needs of it.

    >>> Scored(torch.ones(1, 2)).after is None
    True
    """

    rewards: Tensor
    after: Any = None


def check_training(*, lr: float, epochs: int, minibatches: int) -> None:
    """Refuse options of training that lie outside of their range."""
    if not 0 < lr < math.inf:
        raise ValueError(f"`lr` must be a positive number; got {lr}. Take 1e-3.")
    for name, value in (("epochs", epochs), ("minibatches", minibatches)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1; got {value}. Leave it out.")


class _Result(NamedTuple):
    asked: Transition
    here: Transition  # the same on the bonus's device
    raw: Scored
    rewards: Tensor
    normalized: Filtered | None


class Bonus(nn.Module, ABC):
    r"""An intrinsic reward :math:`b(s_t, a_t, s_{t+1})`, built from spaces alone.

    `score` asks and changes nothing; `update` makes the transitions known, which is `advance` (counts,
    memories of episodes, scale of the rewards) and then `learn` (networks, statistics of observations). A
    loop that needs each reward at once scores and advances every step, and learns every so many. The work of
    `score` is kept for an `update` with the same transition, so that the pair costs one pass.

    Memories of episodes (where ``episodic``) are cleared where a row terminates or is truncated, after it was
    scored; all else lives as long as the bonus. Rows that are not valid enter nothing and score 0. Gradients
    reach nothing outside, and the global random generator is left as it was.

    Subclasses implement `_score`, and what they need of `_commit`, `_learn` and `_score_samples`. They make
    networks inside ``with self.own_random():`` and may set ``self.optimizer``.

    Args:
        observation_space, action_space: of one environment, as Gymnasium's ``single_observation_space``.
        seed: of all that is drawn here.
        normalize: "return" divides by the running deviation of the discounted intrinsic return
            (`ReturnNormalizer`), "none" leaves the rewards as they are.
        gamma: the discount of that return.

    Raises ValueError for a space that is not supported, and in use for transitions that do not fit.

    >>> from gymnasium import spaces
    >>> class FirstFeature(Bonus):
    ...     def _score(self, transition):
    ...         return Scored(transition.next_obs[..., 0])
    >>> bonus = FirstFeature(spaces.Box(0, 1, (2,)), spaces.Discrete(3))
    >>> obs, ends = torch.ones(1, 2, 2), torch.zeros(1, 2, dtype=torch.bool)
    >>> bonus.score(Transition(obs, torch.zeros(1, 2), obs, ends, ends))
    tensor([[1., 1.]])
    """

    episodic: ClassVar[bool] = False  # whether a reward depends on what else its episode held
    ready: bool = True  # False while there are no statistics of observations yet: all rewards are 0

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        seed: int = 0,
        normalize: Normalization = "none",
        gamma: float = 0.99,
    ) -> None:
        super().__init__()
        for space, name in ((observation_space, "observation_space"), (action_space, "action_space")):
            list(leaves(space, name))  # refuses what is not supported
        if normalize not in ("return", "none"):
            raise ValueError(f'`normalize` must be "return" or "none"; got {normalize!r}. Take "none".')
        self.observation_space, self.action_space = observation_space, action_space
        self.generator = torch.Generator().manual_seed(seed)
        self.normalizer = ReturnNormalizer(gamma=gamma) if normalize == "return" else None
        self.memory = Memory()
        self.optimizer: Optimizer | None = None
        self._latest: _Result | None = None
        self._warned = False
        self._n_envs = 0  # of the memories; 0 before any

    # --- what a bonus implements -------------------------------------------------------------------

    @abstractmethod
    def _score(self, transition: Transition) -> Scored:
        """Rewards ``(T, N)`` of checked transitions on this device, and what `_commit` needs; no change."""

    def _commit(self, transition: Transition, after: Any) -> None:
        """Let the memories become what `_score` said."""

    def _learn(self, samples: Transition) -> dict[str, float]:  # noqa: ARG002
        """Train on valid rows ``(B, ...)``; metrics to log."""
        return {}

    def _score_samples(self, samples: Transition) -> Tensor:
        """Rewards ``(B,)`` of rows without order, before normalisation. Only if not ``episodic``."""
        return self._score(samples[None]).rewards[0]

    # --- what users call ---------------------------------------------------------------------------

    def score(self, transition: Transition) -> Tensor:
        """Intrinsic rewards of transitions ``(T, N)``, on their device; 0 before the bonus is ``ready``."""
        return self._result(transition).rewards.to(transition.device)

    def update(self, transition: Transition) -> dict[str, float]:
        """Make transitions known: `advance`, then `learn`, whose metrics are returned."""
        self.advance(transition)
        return self.learn(transition)

    def advance(self, transition: Transition) -> None:
        """Let counts, memories of episodes and the scale of the rewards know of transitions ``(T, N)``."""
        result = self._result(transition)
        self._forget_result()
        self._check_growth(result.raw.rewards[result.here.valid])  # before anything is made known
        self._n_envs = transition.shape[1]
        with self._mode(training=self.training), torch.no_grad():
            self._commit(result.here, result.raw.after)
            if self.normalizer is not None and result.normalized is not None:
                self.normalizer.commit(result.normalized)

    def learn(self, transition: Transition) -> dict[str, float]:
        """Train networks and statistics on transitions, in any order and of any number of environments."""
        samples = self._checked(transition).flat()
        self._forget_result()
        if not len(samples.terminated):
            return {}
        with self._mode(training=True), self.own_random(), torch.enable_grad():
            return self._learn(samples)

    def score_samples(self, samples: Transition) -> Tensor:
        """Intrinsic rewards of transitions ``(B,)`` from a replay buffer, as the bonus is now.

        A stored bonus goes stale while its networks learn; recompute it where it is sampled.

        Raises ValueError if the bonus has a memory of episodes, which samples do not tell.
        """
        if self.episodic:
            raise ValueError(
                f"`score_samples` needs a bonus that knows no episodes; {type(self).__name__} depends on "
                "what else the episode held. Store the rewards of `score`, or take another bonus."
            )
        samples = self._checked(samples)
        if not self.ready:
            return torch.zeros(samples.shape, device=samples.device)
        with self._mode(training=False), torch.no_grad():
            rewards = self._shaped(self._score_samples(samples), samples.shape, "_score_samples")
            rewards = self.normalizer.scale(rewards) if self.normalizer is not None else rewards
        return torch.where(samples.valid, rewards, 0)

    def clear_episodes(self) -> None:
        """Forget the episodes under way, as when environments are reset or others take their place."""
        self._forget_result()
        self._n_envs = 0
        if self.normalizer is not None:
            self.normalizer.memory.clear()
        self._clear_episodes()

    def _clear_episodes(self) -> None:
        """Forget what `memory` holds of single environments."""

    # --- inside ------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.memory.device

    @contextmanager
    def own_random(self) -> Iterator[None]:
        """Let torch draw from this bonus's generator inside the block, and leave the global one as it was."""
        seed = int(torch.randint(2**62, (), generator=self.generator, device="cpu"))
        kind = self.device.type
        others = [] if kind == "cpu" else [self.device]
        with torch.random.fork_rng(others, device_type="cuda" if kind == "cpu" else kind):
            torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed every device
            if others:
                torch.get_device_module(kind).manual_seed(seed)
            yield

    def step(self, loss: Tensor) -> None:
        """One step of the optimizer down the gradient of ``loss``."""
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def minibatches(self, count: int, *, epochs: int, minibatches: int) -> Iterator[Tensor]:
        """Indices of ``count`` rows, shuffled in each epoch and cut into as many parts."""
        for _ in range(epochs):
            order = torch.randperm(count, generator=self.generator, device="cpu").to(self.device)
            yield from (part for part in order.chunk(minibatches) if len(part))

    def _result(self, transition: Transition) -> _Result:
        if self._latest is None or self._latest.asked is not transition:
            self._latest = self._compute(transition)
        return self._latest

    def _compute(self, transition: Transition) -> _Result:
        if len(transition.shape) != 2:
            raise ValueError(
                f"`transition` must have the shape (steps, environments); got {tuple(transition.shape)}. For "
                "samples without order call `score_samples`."
            )
        if self._n_envs not in (0, transition.shape[1]):
            raise ValueError(
                f"`transition` must have {self._n_envs} environments, as before; got {transition.shape[1]}. "
                "Call `clear_episodes()` when the environments are others."
            )
        here = self._checked(transition)
        with self._mode(training=False), torch.no_grad():
            raw = self._score(here) if self.ready else Scored(torch.zeros(here.shape, device=here.device))
            rewards, normalized = self._shaped(raw.rewards, here.shape, "_score"), None
            if self.normalizer is not None and self.ready:
                rewards, normalized = self.normalizer(rewards, here.valid)
        return _Result(transition, here, raw, torch.where(here.valid, rewards, 0), normalized)

    def _shaped(self, rewards: Tensor, shape: torch.Size, method: str) -> Tensor:
        if rewards.shape != shape:
            raise ValueError(
                f"`{method}` of {type(self).__name__} must give rewards of the shape {tuple(shape)}; got "
                f"{tuple(rewards.shape)}. Give one for each row."
            )
        return rewards

    def _checked(self, transition: Transition) -> Transition:
        """On this device, after a look at shapes and values."""
        check(self.observation_space, transition.obs, transition.shape, "obs")
        check(self.action_space, transition.action, transition.shape, "action")
        check(self.observation_space, transition.next_obs, transition.shape, "next_obs")
        return transition.to(self.device)

    @contextmanager
    def _mode(self, *, training: bool) -> Iterator[None]:
        """Train or not, in full precision and outside of inference mode, whatever surrounds the call."""
        before, kind = self.training, self.device.type
        if before is not training:  # going through all modules takes as long as a small step
            _switch(self, training)
        mixed = kind != "meta" and torch.is_autocast_enabled(kind)
        try:
            with torch.inference_mode(False), torch.autocast(kind, enabled=False) if mixed else nullcontext():
                yield
        finally:
            if before is not training:
                _switch(self, before)

    def _forget_result(self) -> None:
        self._latest = None

    def _check_growth(self, rewards: Tensor) -> None:
        largest = float(rewards.abs().max()) if rewards.numel() else 0.0
        if not math.isfinite(largest):
            raise FloatingPointError(
                f"the bonus of {type(self).__name__} must be finite; got {largest}. Lower its learning rate "
                "or normalise the observations."
            )
        if largest > GROWN and not self._warned:
            self._warned = True
            warnings.warn(
                f"the bonus of {type(self).__name__} grew to {largest:.3g}, beyond {GROWN:.0e}; lower its "
                "learning rate or normalise the observations.",
                stacklevel=3,
            )

    def get_extra_state(self) -> dict[str, Any]:
        return {
            "spaces": self._saved_with(),
            "generator": self.generator.get_state(),
            "environments": self._n_envs,
            "optimizer": self.optimizer.state_dict() if self.optimizer is not None else None,
        }

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **options: Any
    ) -> None:
        """Refuse the checkpoint of other spaces before any of it is taken over."""
        own = self._saved_with()
        saved = state_dict.get(f"{prefix}_extra_state", {}).get("spaces", own)
        if saved != own:
            raise ValueError(
                f"the checkpoint must be of a bonus of the spaces {own}; got {saved}. Make the bonus "
                "from what it was saved with."
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **options)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._forget_result()
        self.generator.set_state(state["generator"].cpu())
        self._n_envs = state["environments"]
        if self.optimizer is not None and state["optimizer"] is not None:  # None of another kind of bonus
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # torch would share its tensors

    def _saved_with(self) -> str:
        """What a checkpoint must agree in, where shapes do not tell."""
        return self._spaces()

    def _spaces(self) -> str:
        return f"{one_line(self.observation_space)}, {one_line(self.action_space)}"

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **options: Any) -> Self:
        self._forget_result()
        dtype = fn(torch.empty(0, device=self.device)).dtype
        if dtype.itemsize < 4:
            raise TypeError(
                f"`dtype` of a bonus must be float32 or float64; got {dtype}. Leave it in float32: half "
                "precision around it, by `torch.autocast` for instance, does not reach it."
            )
        super()._apply(fn, *args, **options)
        for parameter, state in self.optimizer.state.items() if self.optimizer is not None else ():
            for name, value in state.items():
                if isinstance(value, Tensor):  # a number of steps keeps its dtype
                    state[name] = fn(value) if value.dim() else value.to(parameter.device)
        return self


def _switch(module: nn.Module, training: bool) -> None:
    """``module.train(training)``, without what makes it slow where it is not overridden."""
    kind = type(module)
    if kind.train is not nn.Module.train or kind.__setattr__ is not nn.Module.__setattr__:
        module.train(training)
        return
    module.__dict__["training"] = training
    for child in module._modules.values():
        if child is not None:
            _switch(child, training)
