"""Fixtures of all tests; functions they share are in `tests/helpers.py`."""

import pytest
import torch
from tests.helpers import CUDA


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    """The CPU always, a CUDA device where there is one; ``-m gpu`` runs the latter alone."""
    return torch.device(request.param)


@pytest.fixture(scope="module")
def single_thread():
    """For modules of many tiny products: on a busy machine threads wait for each other.

    Asked for with ``pytestmark = pytest.mark.usefixtures("single_thread")``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
