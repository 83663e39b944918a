"""`one_thread` gives the threads back."""

from __future__ import annotations

import pytest
import torch

from athena_core import one_thread


@pytest.mark.parametrize("fails", [False, True])
def test_the_number_of_threads_is_what_it_was(fails: bool) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ZeroDivisionError), one_thread():
            assert torch.get_num_threads() == 1
            1 / (0 if fails else 1)
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
