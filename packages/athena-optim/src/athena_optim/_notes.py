"""What an optimizer writes down while it steps."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Notes:
    """What a step leaves behind beside the optimizer's state.

    An object of its own: ``torch.compile`` of torch 2.11 and before cannot trace a step that sets an
    attribute of the optimizer itself (pytorch issue 171590).
    """

    def __init__(self) -> None:
        self.skipped = False  # whether the last step was one that `nonfinite` skipped
        self.norm: Tensor | None = None  # Lamb's: what this step's gradients are divided by
        self.restored = False  # SAM's: whether gradients are those of perturbed parameters

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"norm": None}


class Noting:
    """Base of optimizers that keep `Notes`."""

    _notes: Notes

    @property
    def skipped(self) -> bool:
        """Whether the last step was skipped because of gradients that are not finite."""
        return self._notes.skipped
