"""Environments of Gymnasium by rules over arrays, alone and many at once. Needs the extra ``gym``.

Names load on first use: importing this module imports neither gymnasium nor torch.
"""

from importlib.util import find_spec

import lazy_loader

from athena_core._errors import AthenaError

if find_spec("gymnasium") is None:
    raise AthenaError("`athena_core.environments` needs gymnasium: run `pip install 'athena-core[gym]'`.")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
