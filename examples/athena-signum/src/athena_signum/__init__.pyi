from ._signum import Signum as Signum
