"""Options, abstract machines and goals: hierarchical learning for Gymnasium and Stable-Baselines3.

Names load on first use: importing this package imports no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__.remove("sb3")  # pyright: ignore[reportUnsupportedDunderAll]  # a star import must not need an extra
