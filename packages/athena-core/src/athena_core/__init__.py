"""Athena's core: components found through entry points, ops with kernels, devices, and runs.

Names load on first use: importing this package imports no torch, and loads no plugin.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
