"""The conformance kit: what every plugin, component and kernel must obey, for third parties as for us."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
