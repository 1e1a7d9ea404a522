"""Fixtures of all tests; functions they share are in `tests/helpers.py`."""

import zlib
from itertools import groupby

import pytest
import torch
from tests.helpers import CUDA

GRID, STRIDE = 2, 4
"""Of tests with more parameters than GRID the default run takes every STRIDE-th.

Of those marked ``sampled`` it takes one of two.
"""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark the rest of large grids of parameters as slow; tests named one by one all run.

    Where a grid starts depends on the test's name, so that each operator or solver is left out of
    some tests only.
    """
    if any("::" in argument for argument in config.args):
        return
    of_cpu = (item for item in items if item.get_closest_marker("gpu") is None)
    for name, group in groupby(of_cpu, key=lambda item: item.nodeid.partition("[")[0]):
        grid = list(group)
        if len(grid) <= (1 if grid[0].get_closest_marker("sampled") else GRID):
            continue
        stride = min(STRIDE, len(grid))
        start = zlib.crc32(name.encode()) % stride
        for place, item in enumerate(grid):
            if place % stride != start:
                item.add_marker(pytest.mark.slow)


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
