"""Multi-task algorithms on Stable-Baselines3. Needs the extra ``sb3``.

Names load on first use: importing this module imports neither torch nor Stable-Baselines3.
"""

from importlib.util import find_spec

import lazy_loader

if find_spec("stable_baselines3") is None:
    raise ImportError(
        "`athena_multitask.sb3` needs stable-baselines3: run `pip install 'athena-multitask[sb3]'`."
    )

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
