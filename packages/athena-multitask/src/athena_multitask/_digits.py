"""scikit-learn's digits, as they come."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from athena_core import AthenaError


def load_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """1,797 images of 64 pixels from 0 to 16, and their digits.

    Raises AthenaError without scikit-learn.

    >>> images, digits = load_digits()
    >>> images.shape, digits.shape
    ((1797, 64), (1797,))
    """
    try:
        from sklearn.datasets import load_digits as load
    except ModuleNotFoundError as error:
        raise AthenaError(
            "The digits need scikit-learn: run `pip install 'athena-multitask[recipes]'`."
        ) from error
    loaded: Any = load(return_X_y=True)
    return loaded
