"""What all tests share; functions are imported from ``tests.conftest``, as pytest names it."""

import numpy as np
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


@pytest.fixture(scope="module")
def single_thread():
    """For modules of many tiny products: on a busy machine threads wait for each other.

    Asked for with ``pytestmark = pytest.mark.usefixtures("single_thread")``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random(*shape, dtype=torch.float64, seed=0):
    """Standard normal numbers, the same in every precision."""
    parts = torch.from_numpy(np.random.default_rng(seed).standard_normal((*shape, 2)))
    return (torch.view_as_complex(parts) if dtype.is_complex else parts[..., 0]).to(dtype)


def relative(a, b):
    """The norm of the difference over that of ``b``."""
    return float((a - b).norm() / b.norm())


def anchored(
    network,
    schedule,
    prediction="sample",
    input="plain",
    upsample=1,
    autoencoder=None,
    channels=3,
    data_range=(0.0, 1.0),
    **options,
):
    """A restorer: a network prior with an anchor, of images or of an autoencoder's latents."""
    from wellposed.priors import Anchor, Latent, NetworkPrior

    images = (
        {"channels": channels, "data_range": data_range}
        if autoencoder is None
        else {"data_range": (-1, 1)}
    )
    anchor = Anchor(input, upsample)
    prior = NetworkPrior(network, schedule, prediction, anchor=anchor, **images, **options)
    return prior if autoencoder is None else Latent(prior, autoencoder, data_range)
