"""What test files share: draws of fixed seeds, comparisons, runs of the command line."""

import os
import socket
import traceback

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from accelerate.state import AcceleratorState
from typer.testing import CliRunner

from wellposed.cli.app import app
from wellposed.noise import MEASUREMENT, ItemNoise
from wellposed.priors import Anchor, Latent, NetworkPrior
from wellposed.priors.networks.conv_unet import ConvUNet
from wellposed.priors.stored.store import save_prior
from wellposed.priors.training.settings import TrainingSettings

F32, F64, C64, C128 = torch.float32, torch.float64, torch.complex64, torch.complex128
CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the processes")


# --- draws ----------------------------------------------------------------------------------


def random(*shape, dtype=F64, seed=0):
    """Standard normal numbers by NumPy, real and imaginary parts in turn: of each dtype alike."""
    parts = torch.from_numpy(np.random.default_rng(seed).standard_normal((*shape, 2)))
    return (torch.view_as_complex(parts) if dtype.is_complex else parts[..., 0]).to(dtype)


def normal(*shape, dtype=F64, seed=0):
    """Standard normal numbers by NumPy, all real parts first."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal(shape))
    if dtype.is_complex:
        x = torch.complex(x, torch.from_numpy(rng.standard_normal(shape)))
    return x.to(dtype)


def randn(*shape, dtype=F64, seed=0):
    """Standard normal numbers by PyTorch."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rand(*shape, dtype=F64, seed=0):
    """Uniform numbers from 0 to 1 by PyTorch."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def item_noise(*shape, dtype=F32, seed=0):
    """Standard normal numbers, each item by a generator of its own."""
    items = [(i,) for i in range(shape[0])]
    return ItemNoise(seed, items, MEASUREMENT).draw(torch.empty(shape, dtype=dtype))


# --- operators ------------------------------------------------------------------------------


def mask(*shape, keep=0.6, seed=0):
    """Zeros and ones, of which about ``keep`` are ones."""
    return (torch.from_numpy(np.random.default_rng(seed).random(shape)) < keep).float()


def maps(*shape, seed=0):
    """Sensitivity maps that are no smooth ones."""
    return random(*shape, dtype=C64, seed=seed)


def kind(op, dtype=F64):
    """The dtype of an operator's images in the precision of ``dtype``."""
    return {F32: C64, F64: C128}[dtype] if getattr(op, "complex_image", False) else dtype


# --- comparisons ----------------------------------------------------------------------------


def relative(a, b):
    """The norm of the difference over that of ``b``."""
    return float(((a - b).norm() / b.norm()).detach())


def close(a, b, tolerance=1e-10):
    """Hold two tensors to be equal up to ``tolerance``, absolute or relative."""
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- priors and runs ------------------------------------------------------------------------


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
    images = {"channels": channels, "data_range": data_range} if autoencoder is None else {}
    anchor = Anchor(input, upsample)
    prior = NetworkPrior(network, schedule, prediction, anchor=anchor, **images, **options)
    return prior if autoencoder is None else Latent(prior, autoencoder, data_range)


def tiny_prior(folder, channels, complex_):
    """Save a prior of a random network, of images in [0, 1] or complex ones."""
    torch.manual_seed(0)
    network = ConvUNet(channels, (8, 16), 1)
    training = {"name": "tiny", "sources": [], "licence": "none", "image_size": [16]}
    training |= {"steps_done": 0, "batch_size": 1, "zoom": [1, 1], "gain": [1, 1], "history": []}
    training |= {"curve": [], "millions": 0, "hardware": "none", "noise_levels": "uniform"}
    config = {
        "network": network.settings,
        "schedule": "linear",
        "prediction": "sample",
        "sigma_data": None,
        "channels": 1,
        "complex": complex_,
        "data_range": [-1, 1] if complex_ else [0, 1],
        "training": training,
    }
    save_prior(folder, network, config)


def tiny_training(data, out, /, **changes):
    """Settings of a training of seconds."""
    tiny = dict(image_size=(16,), widths=(8, 16), layers=1, batch_size=2)
    tiny |= dict(steps=4, warmup=2, save_every=2, image_every=100)
    tiny |= dict(data=(str(data),), out=str(out))
    return TrainingSettings(**tiny | changes)


class Killed(Exception):
    """Ends a run in the middle, as a killed process would."""


def run(*words):
    """The result of a command line in this process: ``exit_code``, ``output``, ``stderr``."""
    return CliRunner().invoke(app, [str(word) for word in words])


def forked(count, work, folder, timeout=200):
    """Run ``work(rank)`` in forked processes that find what torchrun tells them.

    Returns their exit codes; what they raise is written into the folder, see `told`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}

    def start(rank):
        os.environ |= place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count))
        try:
            work(rank)
        except Exception:
            (folder / f"error-{rank}").write_text(traceback.format_exc())
            raise SystemExit(3) from None

    processes = [mp.get_context("fork").Process(target=start, args=(r,)) for r in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def told(folder):
    """What forked processes raised."""
    return "\n".join(f"{f.name}: {f.read_text()}" for f in sorted(folder.glob("error-*")))


def run_in_processes(count, words, folder):
    """Run a command line in processes that share the work; return all their output."""

    def work(rank):
        AcceleratorState._reset_state(reset_partial_state=True)  # this process was alone
        done = run(*words)
        (folder / f"output-{rank}").write_text(done.output)
        assert done.exit_code == 0, done.output

    folder.mkdir()
    assert forked(count, work, folder) == [0] * count, told(folder)
    return "".join((folder / f"output-{rank}").read_text() for rank in range(count))
