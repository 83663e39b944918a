"""Plays options in a vector environment: which acts, what it does, and where it ends."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from athena_core.environments import autoreset_mode, final_observations
from athena_hrl._option_critic_losses import of_option, soft_option_value, value_upon_arrival
from athena_hrl._option_network import OptionNetwork, OptionOutputs, epsilon_greedy
from athena_hrl._option_usage import OptionUsage


class OptionStep(NamedTuple):
    """One step of each environment, ``(N, ...)``; stacked, ``(T, N, ...)``.

    Args:
        obs: :math:`s_t`.
        option: :math:`o_t`, which acted.
        action: :math:`a_t`, as the policy drew it.
        log_prob: of it.
        value: :math:`Q(s_t, o_t)`.
        reward: :math:`r_{t+1}`.
        arrival: :math:`s_{t+1}`, where the step led, also where another episode has begun since.
        arrival_value: :math:`U(s_{t+1}, o_t)`.
        terminated, truncated: how the episode ended, if it did.
        ended: whether the option ended on arrival; never with the episode.
        live: whether there was a step at all, rather than a reset.

    >>> OptionStep._fields[:3]
    ('obs', 'option', 'action')
    """

    obs: Tensor
    option: Tensor
    action: Tensor
    log_prob: Tensor
    value: Tensor
    reward: Tensor
    arrival: Tensor
    arrival_value: Tensor
    terminated: Tensor
    truncated: Tensor
    ended: Tensor
    live: Tensor

    @property
    def goes_on(self) -> Tensor:
        """Where the option could end: in a step that did not end the episode."""
        return self.live & ~(self.terminated | self.truncated)


class OptionPlayer:
    """A vector environment played by the options of a network.

    Upon each arrival the option that acted ends with its probability there, and only then another is chosen
    epsilon-greedily. An episode begins with a choice. Autoreset may be of the next step or of the same one.

    Args:
        env: a vector environment, or one environment.
        n_options: O.
        generator: of all that is drawn, on the device where the network is.
        seed: of the environment's first reset.

    Raises ValueError for a vector environment that does not reset itself.

    >>> from athena_hrl import OptionNetwork
    >>> player = OptionPlayer(gym.make_vec("CartPole-v1", 3), 2, generator=torch.Generator(), seed=0)
    >>> network = OptionNetwork(*player.spaces, n_options=2, hidden=(8,))
    >>> player.step(network, epsilon=0.1).arrival.shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any] | gym.Env[Any, Any],
        n_options: int,
        *,
        generator: torch.Generator,
        seed: int,
    ) -> None:
        self.env = env if isinstance(env, VectorEnv) else SyncVectorEnv([lambda: env])
        mode = autoreset_mode(self.env)
        if mode is AutoresetMode.DISABLED:
            raise ValueError(f"`env` must reset itself; got {mode}. Make it with NEXT_STEP or SAME_STEP.")
        self.same_step = mode is AutoresetMode.SAME_STEP
        self.generator, self.seed = generator, seed
        self.usage = OptionUsage(n_options, self.env.num_envs)
        self.obs: Tensor | None = None  # before the first episode
        rows, device = self.env.num_envs, generator.device
        self.option = torch.zeros(rows, dtype=torch.long, device=device)
        self.ended, self.begins, self.waiting = (
            torch.zeros(rows, dtype=torch.bool, device=device) for _ in range(3)
        )
        self.returns: list[float] = []  # of the episodes that ended
        self._return = torch.zeros(rows, dtype=torch.float64)

    @property
    def spaces(self) -> tuple[gym.Space[Any], gym.Space[Any]]:
        """Of one observation and one action."""
        return self.env.single_observation_space, self.env.single_action_space

    @torch.no_grad()
    def step(self, network: OptionNetwork, *, epsilon: float) -> OptionStep:
        """Take one step in each environment."""
        if self.obs is None:
            self.obs = self._tensor(self.env.reset(seed=self.seed)[0])
            self._begin(network(self.obs), torch.ones_like(self.begins), epsilon=epsilon)
        obs, option, live = self.obs, self.option, ~self.waiting
        flags = [flag.cpu().numpy() for flag in (self.ended, self.begins, live)]
        self.usage.add(option.cpu().numpy(), ended=flags[0], begins=flags[1], live=flags[2])
        outputs = network(obs)
        action = network.sample(outputs, option, generator=self.generator)
        raw, rewards, terminations, truncations, info = self.env.step(self.for_env(action))
        terminated, truncated = (self._tensor(flag).bool() for flag in (terminations, truncations))
        self.obs, done = self._tensor(raw), terminated | truncated
        arrival = self.obs
        if self.same_step and done.any():
            arrival = arrival.clone()
            arrival[done] = final_observations(self.obs, info, done.cpu()).to(arrival)
        upon = network(arrival)
        beta = of_option(upon.beta, option)
        arrival_value = value_upon_arrival(
            of_option(upon.values, option), soft_option_value(upon.values, epsilon), beta
        )
        uniform = torch.rand(beta.shape, generator=self.generator, device=beta.device, dtype=beta.dtype)
        self.ended = live & ~done & (uniform < beta)
        made = OptionStep(
            obs=obs,
            option=option,
            action=action,
            log_prob=network.log_prob(outputs, option, action),
            value=of_option(outputs.values, option),
            reward=self._tensor(rewards).to(beta),
            arrival=arrival,
            arrival_value=arrival_value,
            terminated=terminated,
            truncated=truncated,
            ended=self.ended,
            live=live,
        )
        self._go_on(network, upon, done, epsilon=epsilon)
        self._note(made, done)
        return made

    def restart(self) -> None:
        """Begin new episodes with the next step."""
        self.obs = None
        self.ended, self.begins, self.waiting = (torch.zeros_like(self.waiting) for _ in range(3))
        self._return.zero_()

    def _go_on(self, network: OptionNetwork, upon: OptionOutputs, done: Tensor, *, epsilon: float) -> None:
        """Which options act next."""
        chosen = epsilon_greedy(upon.values, epsilon, generator=self.generator)
        self.option = torch.where(self.ended, chosen, self.option)
        begins = done if self.same_step else self.waiting
        if not self.same_step:
            self.waiting = done
        assert self.obs is not None
        if begins.any():
            # in SAME_STEP the values upon arrival are not those of the state in which the episode begins
            self._begin(network(self.obs) if self.same_step else upon, begins, epsilon=epsilon)
        else:
            self.begins = begins

    def _begin(self, outputs: OptionOutputs, begins: Tensor, *, epsilon: float) -> None:
        chosen = epsilon_greedy(outputs.values, epsilon, generator=self.generator)
        self.option, self.begins = torch.where(begins, chosen, self.option), begins

    def _note(self, step: OptionStep, done: Tensor) -> None:
        self._return += (step.reward * step.live).cpu().double()
        over = done.cpu()
        self.returns += self._return[over].tolist()
        self._return[over] = 0

    def _tensor(self, values: Any) -> Tensor:
        # a copy: an environment may write its next observations into the same array
        array = np.asarray(values)
        dtype = torch.float32 if array.dtype == np.float64 else None  # on the host: a device may have none
        return torch.tensor(array, dtype=dtype, device=self.generator.device)

    def for_env(self, action: Tensor) -> Any:
        """Actions as the environment takes them: continuous ones cut at its bounds."""
        space = self.spaces[1]
        values = action.cpu().numpy()
        if isinstance(space, gym.spaces.Box):
            return np.clip(values, space.low, space.high).astype(space.dtype)
        return values + space.start  # pyright: ignore[reportAttributeAccessIssue]
