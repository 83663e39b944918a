"""A second value of an actor-critic policy, for the intrinsic stream, whatever the policy's class."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn


class IntrinsicValue(nn.Module):
    r"""A linear value :math:`V^I(s) = w^\top h(s) + c` of the features that the policy's own value reads.

    It becomes a part of the policy and of its optimizer, and watches ``policy.value_net``: the features of
    each call without gradients are kept in ``features``. Where `expect` was called before one with gradients,
    the loss

    .. math:: c_I \frac{1}{|B|} \sum_{i \in B} \bigl(R^I_i - V^I(s_i)\bigr)^2

    of that minibatch hangs on the values that the network gives back: they stay as they are, and the backward
    pass through them reaches the loss with a gradient of 1. So the ``train`` of an algorithm minimises it
    without knowing of it. Else no gradient is there: ``grad`` is None, not 0.

    Args:
        policy: whose ``value_net`` is a linear layer.
        seed: of the weights; the global generator is left alone.
        vf_coef: :math:`c_I`.

    Shape: features ``(..., width) -> (...)``.

    Raises TypeError if the policy has no linear ``value_net``.

    Source: two heads, Burda et al. 2018, arXiv:1810.12894, section 2.3. Departs from it: no.

    >>> from gymnasium import spaces
    >>> from stable_baselines3.common.policies import ActorCriticPolicy
    >>> policy = ActorCriticPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), lambda _: 1e-3)
    >>> value = IntrinsicValue(policy)
    >>> values = policy.predict_values(torch.zeros(5, 3))
    >>> value.expect(torch.ones(5))
    >>> policy.evaluate_actions(torch.zeros(5, 3), torch.zeros(5))[0].sum().backward()
    >>> policy.intrinsic_value.bias.grad.item()  # -2 times 0.5 times the mean of 1 - 0
    -1.0
    """

    def __init__(self, policy: ActorCriticPolicy, *, seed: int = 0, vf_coef: float = 0.5) -> None:
        super().__init__()
        network = getattr(policy, "value_net", None)
        if not isinstance(network, nn.Linear):
            raise TypeError(
                f"`policy` must have a linear `value_net`, for a second value beside it; got {network!r} in "
                f"{type(policy).__name__}. Name its last layer so."
            )
        self.vf_coef = vf_coef
        own = torch.Generator().manual_seed(seed)
        drawn = torch.randn(network.in_features, generator=own, device="cpu")
        self.weight = nn.Parameter(drawn / drawn.norm())  # orthogonal, as a policy's own layers
        self.bias = nn.Parameter(torch.zeros(1))
        self.features: Tensor | None = None
        self.losses: list[Tensor] = []  # since they were last read
        self._expected: tuple[Tensor, Tensor | None] | None = None
        self.to(network.weight.device)
        policy.add_module("intrinsic_value", self)
        policy.optimizer.add_param_group({"params": list(self.parameters())})
        network.register_forward_hook(self._watch)

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.weight + self.bias

    def expect(self, returns: Tensor, mask: Tensor | None = None) -> None:
        """Let the next values with gradients be trained towards ``returns``, where ``mask`` is."""
        self._expected = returns, mask

    def take_loss(self) -> float | None:
        """The mean of the losses since it was last asked for, without :math:`c_I`; None if there was none."""
        losses, self.losses, self._expected = self.losses, [], None
        return float(torch.stack(losses).mean()) if losses else None

    def _watch(self, network: nn.Module, inputs: tuple[Tensor, ...], values: Tensor) -> Tensor | None:  # noqa: ARG002
        if not torch.is_grad_enabled():
            self.features = inputs[0]
            return None
        if self._expected is None:
            return None
        (returns, mask), self._expected = self._expected, None
        predicted = torch.addmv(self.bias, inputs[0], self.weight)  # one node of the graph
        loss = F.mse_loss(predicted, returns) if mask is None else F.mse_loss(predicted[mask], returns[mask])
        self.losses.append(loss.detach())
        return cast(Tensor, _Hung.apply(values, loss, self.vf_coef))


class _Hung(torch.autograd.Function):
    """The values as they are; backward, the loss has a gradient of its weight."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, loss: Tensor, weight: float) -> Tensor:  # noqa: ARG004
        ctx.weight = weight
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient, gradient.new_full((), ctx.weight), None
