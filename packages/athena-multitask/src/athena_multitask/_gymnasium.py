"""What of Gymnasium is used, or how to install it."""

from __future__ import annotations

from athena_core import AthenaError
from athena_multitask._meta_world_tasks import INSTALL

try:
    from gymnasium import Env
    from gymnasium.error import ResetNeeded
    from gymnasium.spaces import Box
    from gymnasium.vector import AutoresetMode, SyncVectorEnv
except ImportError as error:
    raise AthenaError(f"Meta-World's environments need gymnasium: run `{INSTALL}`.") from error

__all__ = ["AutoresetMode", "Box", "Env", "ResetNeeded", "SyncVectorEnv"]
