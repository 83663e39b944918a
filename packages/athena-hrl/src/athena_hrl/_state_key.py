"""States of any form as keys of tables."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from athena_hrl._machine_names import PRIMITIVES


def state_key(state: Any) -> Hashable:
    """A state as primitives, bytes and tuples of them, equal where states are equal.

    Raises TypeError for an object that is none of: primitive, array, tuple, list, dictionary, dataclass,
    namespace.

    >>> state_key(np.int64(3)), state_key(SimpleNamespace(x=1, y=np.float64(0.5)))
    (3, (('x', 1), ('y', 0.5)))
    >>> state_key(np.array([1, 2], dtype=np.int8))
    ('|i1', (2,), b'\\x01\\x02')
    """
    if type(state) in PRIMITIVES:
        return state
    if isinstance(state, np.generic):
        return state.item()
    if isinstance(state, np.ndarray):
        return state.dtype.str, state.shape, state.tobytes()
    if isinstance(state, tuple | list):
        return tuple([state_key(one) for one in state])
    if is_dataclass(state) and not isinstance(state, type):
        state = {field.name: getattr(state, field.name) for field in fields(state)}
    if isinstance(state, SimpleNamespace):
        state = vars(state)
    if isinstance(state, Mapping):
        return tuple([(name, state_key(state[name])) for name in sorted(state)])
    raise TypeError(
        f"a state must be of numbers, strings, arrays, tuples, dictionaries or dataclasses; got {state!r}. "
        "Decode it by `state` of HAM, or give an `abstraction`."
    )
