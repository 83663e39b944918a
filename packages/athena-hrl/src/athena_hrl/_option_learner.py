"""What deep option-critics share: network, optimizer, generator, prediction and state."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from athena_core import to_device
from athena_hrl._numbers import LARGEST, in_range
from athena_hrl._option_critic_losses import mean_over, of_option, soft_option_value, termination_loss
from athena_hrl._option_network import OptionNetwork, OptionOutputs, epsilon_greedy
from athena_hrl._option_player import OptionPlayer, OptionStep
from athena_hrl._option_usage import OptionUsage
from athena_hrl._smdp import agreed_gamma


class OptionLearner(ABC):
    """A network of options, learned in a vector environment. `OptionCritic` and `OptionCriticDQN` are such.

    Args:
        env: a vector environment, or one environment; Discrete or Box observations and actions.
        n_options: how many.
        encoder: as of `OptionNetwork`.
        hidden: as of `OptionNetwork`.
        gamma: the discount; that of the environment, if it has one.
        lr: of Adam.
        deliberation_cost: taken off the reward of a step upon whose arrival the option ended.
        margin: the same cost as a margin in the termination's gradient.
        termination_weight: of the termination's loss.
        entropy: weight of the bonus on the entropy of intra-option policies.
        max_grad_norm: to which the norm of the gradient is cut.
        seed: of weights, options, actions and the environment.
        device: where the network is.

    Attributes:
        network: an `OptionNetwork`.
        usage: how options were used, an `OptionUsage`.
        returns: of the episodes that ended so far, without discount.
        steps: of all environments together, resets not counted.

    >>> OptionLearner.__abstractmethods__ == {"_improve", "epsilon_now"}
    True
    """

    def __init__(
        self,
        env: Any,
        *,
        n_options: int,
        encoder: nn.Module | None,
        hidden: Sequence[int],
        gamma: float,
        lr: float,
        deliberation_cost: float,
        margin: float,
        termination_weight: float,
        entropy: float,
        max_grad_norm: float,
        seed: int,
        device: str | torch.device,
    ) -> None:
        self.gamma, self.device = agreed_gamma(env, gamma), torch.device(device)
        costs = {"deliberation_cost": deliberation_cost, "margin": margin, "entropy": entropy}
        in_range(0, LARGEST, lr=lr, termination_weight=termination_weight, **costs)
        in_range(0, float("inf"), max_grad_norm=max_grad_norm)
        self.deliberation_cost, self.margin, self.entropy = deliberation_cost, margin, entropy
        self.termination_weight, self.max_grad_norm = termination_weight, max_grad_norm
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.player = OptionPlayer(env, n_options, generator=self.generator, seed=seed)
        with torch.random.fork_rng(devices=[]):  # modules draw their weights from the global generator
            torch.manual_seed(seed)
            self.network = OptionNetwork(
                *self.player.spaces, n_options=n_options, hidden=hidden, encoder=encoder
            ).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr)
        self.steps = 0

    @property
    def usage(self) -> OptionUsage:
        return self.player.usage

    @property
    def returns(self) -> list[float]:
        return self.player.returns

    def learn(self, steps: int) -> Self:
        """Learn in at least so many more steps, all environments counted together."""
        until = self.steps + steps
        while self.steps < until:
            self._improve()
        return self

    def predict(
        self, obs: Any, option: Any = None, *, deterministic: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions and the options that take them, for observations ``(N, *shape)``.

        Args:
            obs: where options have just arrived.
            option: which acted until now ``(N,)``; each may end here. None, or -1 in a row, is a new episode.
            deterministic: end where that is more likely than not, and take the best option and action. Then
                nothing is drawn, and a test in between leaves learning as it was.

        Raises ValueError for observations of another shape, or an option there is not.
        """
        tensor = to_device(torch.as_tensor(np.asarray(obs)), self.device)
        shape = self.player.spaces[0].shape or ()
        if tensor.ndim != len(shape) + 1 or tensor.shape[1:] != shape:
            raise ValueError(
                f"`obs` must have the shape (N, {', '.join(map(str, shape))}); got {tuple(tensor.shape)}. "
                "Give one observation as a batch of one."
            )
        with torch.no_grad():
            outputs = self.network(tensor)
            before = torch.full((len(tensor),), -1) if option is None else torch.as_tensor(np.asarray(option))
            acting = self._acting(outputs, before.to(self.device), deterministic=deterministic)
            if deterministic:
                action = self.network.best(outputs, acting)
            else:
                action = self.network.sample(outputs, acting, generator=self.generator)
        return self.player.for_env(action), acting.cpu().numpy()

    def _acting(self, outputs: OptionOutputs, before: Tensor, *, deterministic: bool) -> Tensor:
        """Which options act ``(N,)``, after those that did."""
        n_options = outputs.values.shape[1]
        if before.shape != outputs.values.shape[:1] or bool((before >= n_options).any()):
            raise ValueError(
                f"`option` must be {len(outputs.values)} numbers below {n_options}, with -1 where an episode "
                f"begins; got {before.tolist()}."
            )
        beta = of_option(outputs.beta, before.clamp(min=0))
        if deterministic:
            ends, chosen = beta > 0.5, outputs.values.argmax(-1)
        else:
            ends = torch.rand(beta.shape, generator=self.generator, device=self.device) < beta
            chosen = epsilon_greedy(outputs.values, self.epsilon_now(), generator=self.generator)
        return torch.where(ends | (before < 0), chosen, before)

    def state_dict(self) -> dict[str, Any]:
        """Network, optimizer, generator and counts. The environment's episodes are not in it."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "usage": self.usage.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, with new episodes. Raises RuntimeError for that of another network."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # torch would share its tensors
        self.generator.set_state(state["generator"].cpu())
        self.usage.load_state_dict(state["usage"])
        self.steps = int(state["steps"])
        self.player.restart()

    @abstractmethod
    def _improve(self) -> None:
        """Take some steps and learn from them."""

    @abstractmethod
    def epsilon_now(self) -> float:
        """The share of options chosen at random."""

    def _termination_loss(self, steps: OptionStep) -> Tensor:
        """That of the options that acted, where they arrived: a mean over steps that end no episode."""
        upon = self.network(steps.arrival)
        loss = termination_loss(
            of_option(upon.beta, steps.option),
            of_option(upon.values, steps.option),
            soft_option_value(upon.values, self.epsilon_now()),
            margin=self.margin,
        )
        return mean_over(loss, steps.goes_on)

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        self.optimizer.step()
