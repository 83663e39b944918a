from ._register import register as register
