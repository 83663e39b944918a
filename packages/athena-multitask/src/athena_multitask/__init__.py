"""Multi-task learning: shared models, balanced gradients, weighted losses, networks that grow, Meta-World.

Names load on first use: importing this package imports no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
