"""Training tasks: the images, the loss and the validation."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor, nn

from wellposed.datasets.images.image_files import Collection
from wellposed.priors.adapters.autoencoder import DiffusersAutoencoder, Latent
from wellposed.priors.adapters.channelwise import Channelwise
from wellposed.priors.network import NetworkPrior
from wellposed.priors.prior import Prior, broadcast
from wellposed.priors.stored.config import Config
from wellposed.priors.stored.store import build_prior
from wellposed.priors.training.batches import Batch, Batches
from wellposed.priors.training.settings import TrainingSettings
from wellposed.priors.training.unrolled_settings import UnrolledSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

VALIDATION_CROPS = 32
"""Number of held-out crops for validation."""

PICTURES = 6
"""Number of held-out crops shown in pictures."""


Settings = TrainingSettings | UnrolledSettings
M = TypeVar("M")
"""What is trained: a prior, or an unrolled network."""


class Task(ABC, Generic[M]):
    """Base of the tasks of a training run.

    Args:
        settings: the run's settings.
        collection: the images.
        accelerator: the accelerator of this process.

    Attributes:
        batches: the batch of every step.
        held: batches of held-out crops.
        autoencoder: autoencoder of a latent prior.
        curve: names of the values that `measure` returns besides the loss.
    """

    settings: Settings
    batches: Batches
    held: Batches
    curve: tuple[str, ...]
    autoencoder: DiffusersAutoencoder | None = None

    def __init__(
        self, settings: Settings, collection: Collection, accelerator: "Accelerator"
    ) -> None:
        self.settings, self.collection = settings, collection
        self.device = accelerator.device
        self.share = accelerator.process_index, accelerator.num_processes

    @abstractmethod
    def config(self) -> Config:
        """Return the config of what is trained, without the record of its training."""

    @abstractmethod
    def model(self, network: nn.Module) -> M:
        """Return what the network is part of."""

    @abstractmethod
    def loss(self, trained: M, batch: Batch) -> Tensor:
        """Return the loss of a batch."""

    @abstractmethod
    def measure(self, trained: M) -> tuple[float, ...]:
        """Return the loss on fixed held-out crops, and the curve."""

    @abstractmethod
    def pictures(self, trained: M) -> dict[str, list[Tensor]]:
        """Return rows of images (B, C, H, W) in [0, 1], by the name of the picture."""

    def first_held(self, count: int, step: int) -> Batch:
        """Return the first held-out crops of a step, on the device."""
        size = self.settings.image_size[0]
        return tuple(v.to(self.device) for v in self.held.draw(range(count), count, step, size))

    def autocast(self) -> torch.autocast:
        """Return the context in which the network is called."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16)


class PriorTask(Task[Prior]):
    """Base of the tasks that train priors."""

    settings: TrainingSettings

    def model(self, network: nn.Module) -> Prior:
        """Return the prior of the network."""
        return build_prior(network, self.config(), self.autoencoder)


def network_prior(prior: Prior) -> NetworkPrior:
    """Return the prior with the network: the inner one of a latent or channelwise prior."""
    inner = prior.prior if isinstance(prior, (Channelwise, Latent)) else prior
    assert isinstance(inner, NetworkPrior)
    return inner


def noisy(
    prior: Prior, x0: Tensor, t: float | Tensor, eps: Tensor, m: float | Tensor = 0.0
) -> Tensor:
    """Return ``x_t = m + alpha_t (x_0 - m) + sigma_t eps``."""
    alpha, sigma = (broadcast(v, x0) for v in prior.schedule(t))
    return m + alpha * (x0 - m) + sigma * eps
