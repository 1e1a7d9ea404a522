"""The low-rank prior: factors that are fitted to one image while it is sampled."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from wellposed.checks import Count, Fraction, NonNegative, Positive, Steps
from wellposed.errors import ArgumentError, CheckpointError, ShapeError, require
from wellposed.noise import NoiseSource
from wellposed.priors.anchor import Condition
from wellposed.priors.prior import Prior, Projection
from wellposed.priors.schedule import Schedule, Tabulated
from wellposed.priors.spatio_spectral.factors import (
    ConvMaps,
    Factors,
    MakeMaps,
    fit_loss,
    make_maps,
    set_weights,
    values_of,
)
from wellposed.priors.spatio_spectral.start import completed

NAME = "spatio-spectral"
"""Of the prior where priors are named: on the command line and in cards."""


class SpatioSpectral(Prior):
    r"""DDS2M: few maps times few spectra, fitted to the one image that is sampled; not trained.

    An image of many bands is ``c = sum_r maps_r spectra_r``. At each evaluation Adam steps
    reduce ``mean (alpha_t (2 c - 1) - x_t)^2``, and the estimate of ``x_0`` is the running mean of
    c, clipped to [0, 1]. The fit belongs to one run: it begins anew in each, from the seed of the
    item, and is saved with its checkpoints. Images are in [0, 1]; see `with_range`. DDRM is the
    published sampler; solvers that differentiate the prior refuse it.

    Reference: "DDS2M: Self-Supervised Denoising Diffusion Spatio-Spectral Model for Hyperspectral
    Image Restoration", ICCV 2023, arXiv 2303.06682. It has one network of 2.6 million weights for
    each map and fits for 500 to 1500 steps from random weights; here all maps come from one small
    network. Its code returns the iterate that is closest to the truth; this is the last one.

    For linear operators the factors start at what rank, smoothness and data tell without a network
    (`completed`), which is also the estimate before the fit; published: ``x_t``. On its own the
    prior starts at the singular vectors of the first ``x_t`` that it fits.

    Args:
        rank: number of maps and spectra; the published 10.
        maps: what makes the maps, ``(rank, (H, W)) -> module``: `ConvMaps`, `FreeMaps` or a
            function of your own; see `MakeMaps`.
        wait: share of the schedule, from T, that passes before the fit starts; published: 0.5.
        learning_rate: of Adam; published: 5e-4.
        fits: Adam steps of an evaluation; published: 1.
        average: decay of the running mean of c, per evaluation; published: 0.98.
        smoothness: weight of the total variation; published: 0.
        schedule: linear betas from 1e-4 to 5e-3 in 3000 steps, as published, by default.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Denoising((8, 12, 12), noise_sigma=0.1)  # 8 bands
        >>> y = operator.measure(torch.rand(1, 8, 12, 12), seed=0)
        >>> prior = priors.SpatioSpectral(rank=3, maps=priors.FreeMaps)
        >>> solvers.DDRM(steps=10)(y, operator, prior, seed=0).mean.shape
        torch.Size([1, 8, 12, 12])
    """

    def __init__(
        self,
        rank: Count = 5,
        maps: MakeMaps = ConvMaps,
        wait: Fraction = 0.85,
        learning_rate: Positive = 1e-2,
        fits: Steps = 10,
        average: Fraction = 0.9,
        smoothness: NonNegative = 0.0,
        schedule: Schedule | None = None,
    ) -> None:
        chosen = schedule or Tabulated.linear(3000, 1e-4, 5e-3)
        super().__init__(chosen, data_range=(0.0, 1.0))
        require(average < 1, "average", average, "a number of at least 0 and below 1")
        self.rank, self.maps, self.wait = rank, maps, wait
        self.learning_rate, self.fits = learning_rate, fits
        self.average, self.smoothness = average, smoothness

    def extra_repr(self) -> str:
        """Return the content of `repr`."""
        return f"rank={self.rank}, {super().extra_repr()}"

    def check_image(self, x: Tensor) -> None:
        """Raise unless ``x`` is a batch of real images (B, bands, H, W)."""
        super().check_image(x)
        if x.ndim != 4:
            raise ShapeError(
                f"prior: got images of shape {tuple(x.shape)}, accepted by SpatioSpectral: images "
                "(B, bands, H, W)"
            )

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Raise, as the fit belongs to a run; see `begin`."""
        raise ArgumentError(
            "prior: got a SpatioSpectral that no run has begun, accepted: SpatioSpectral itself "
            "as the prior of a solver, in no other prior; or prior.begin(image, noise)"
        )

    def begin(
        self, like: Tensor, noise: NoiseSource, project: Projection | None = None
    ) -> "SpatioSpectralFit":
        """Return the fit of one run: a prior that learns from each image that it denoises.

        Args:
            like: images of the run, (B, bands, H, W).
            noise: source of the initial weights.
            project: the projection of images in units onto the data, see `Prior.begin`.
        """
        return SpatioSpectralFit(self, like, noise, project)


class SpatioSpectralFit(Prior):
    """The fit of one run of `SpatioSpectral`, one of factors for each item of the batch.

    Args:
        prior: the prior with its settings.
        like: images of the run, (B, bands, H, W).
        noise: source of the initial weights.
        project: the projection of images in units onto the data, see `Prior.begin`.
    """

    mean: Tensor
    begun: Tensor

    def __init__(
        self,
        prior: SpatioSpectral,
        like: Tensor,
        noise: NoiseSource,
        project: Projection | None = None,
    ) -> None:
        super().__init__(prior.schedule, data_range=prior.data_range)
        prior.check_image(like)
        self.of, self.project = prior, project
        spectra = like.new_zeros(prior.rank, like.shape[1])
        maps = [make_maps(prior.maps, prior.rank, like[:1]) for _ in like]
        self.factors = nn.ModuleList(Factors(each, spectra.clone()) for each in maps)
        count = sum(value.numel() for value in values_of(maps[0]))
        for each, z in zip(maps, noise.draw(like.new_zeros(len(like), count)), strict=True):
            set_weights(each, z)
        adam = torch.optim.Adam
        self.optimizers = [adam(each.parameters(), prior.learning_rate) for each in self.factors]
        self.register_buffer("mean", torch.zeros_like(like))
        self.register_buffer("begun", torch.zeros(()))

    def _start(self, images: Tensor) -> None:
        """Start the factors of each item, and the running mean, at images (B, bands, H, W)."""
        for factors, image in zip(self._all(), images.split(1), strict=True):
            factors.start(image)
        self.mean = torch.cat([factors.image().detach() for factors in self._all()])
        self.begun = torch.ones_like(self.begun)

    def _all(self) -> list[Factors]:
        return [cast(Factors, factors) for factors in self.factors]

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Fit the factors to ``x_t`` and return the estimate of ``x_0``; see `SpatioSpectral`.

        Args:
            x_t: noisy images (B, bands, H, W), in units.
            t: time, one number.
            condition: None.
        """
        project = self.project
        if project is not None and not bool(self.begun):
            self._start(completed(lambda c: (project(2 * c - 1) + 1) / 2, x_t, self.of.rank))
        time = float(torch.as_tensor(t).max())
        if time > (1 - self.of.wait) * self.schedule.T:
            return 2 * self.mean.clamp(0, 1) - 1 if bool(self.begun) else x_t
        alpha = max(float(self.schedule(time)[0]), 1e-3)
        self._fit(x_t.detach(), alpha)
        return 2 * self.mean.clamp(0, 1) - 1

    def _fit(self, x_t: Tensor, alpha: float) -> None:
        """Fit every item, and update the running mean of c."""
        if not bool(self.begun):
            self._start((x_t / alpha + 1) / 2)
        fits = zip(self._all(), self.optimizers, x_t.split(1), strict=True)
        images = [self._fitted(factors, adam, x, alpha) for factors, adam, x in fits]
        kept = self.of.average
        self.mean = kept * self.mean.clamp(0, 1) + (1 - kept) * torch.cat(images)

    @torch.enable_grad()
    def _fitted(
        self, factors: Factors, optimizer: torch.optim.Adam, x_t: Tensor, alpha: float
    ) -> Tensor:
        """Take the Adam steps of one item and return c before the last one."""
        c = x_t
        for step in range(self.of.fits):
            if step == self.of.fits - 1:
                c = factors.image().detach()
            optimizer.zero_grad()
            fit_loss(factors, x_t, alpha, self.of.smoothness).backward()
            optimizer.step()
        return c

    def memory(self) -> dict[str, Tensor]:
        """Return everything that the fit has learnt, by name."""
        found = dict(self.state_dict())
        for b, optimizer in enumerate(self.optimizers):
            for number, values in optimizer.state_dict()["state"].items():
                found |= {f"adam.{b}.{number}.{name}": v for name, v in values.items()}
        return found

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Go on from what `memory` returned.

        Raises:
            CheckpointError: the memory of another fit.
        """
        own = {name: v for name, v in memory.items() if not name.startswith("adam.")}
        try:
            self.load_state_dict(own)
            for b, optimizer in enumerate(self.optimizers):
                optimizer.load_state_dict({**optimizer.state_dict(), "state": _adam(memory, b)})
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"checkpoint: holds the fit of another prior: {error}"
            ) from error


def _adam(memory: Mapping[str, Tensor], item: int) -> dict[int, dict[str, Tensor]]:
    """Return the state of an item's optimiser, by number of the parameter."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in memory.items():
        kind, *place = name.split(".")
        if kind == "adam" and place[0] == str(item):
            state.setdefault(int(place[1]), {})[place[2]] = value
    return state
