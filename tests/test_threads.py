"""Fewer threads inside, as many as before outside, also after an error."""

import pytest
import torch

from stages import threads


def test_threads_are_limited_and_given_back() -> None:
    before = torch.get_num_threads()
    with threads.limited_to(1):
        assert torch.get_num_threads() == 1
        with threads.limited_to(before + 1):
            assert torch.get_num_threads() == 1  # it never adds any
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="inside"), threads.limited_to(1):
        raise ValueError("inside")
    assert torch.get_num_threads() == before
