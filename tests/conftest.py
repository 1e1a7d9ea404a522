"""Fixtures shared by all tests."""

import pytest
import torch

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    """The CPU always, a CUDA device where there is one; ``-m gpu`` runs the latter alone."""
    return torch.device(request.param)
