"""Latent diffusions with a prompt, as priors on images."""

import copy
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from wellposed.checks import NonNegative
from wellposed.errors import ShapeError
from wellposed.priors.adapters.autoencoder import DiffusersAutoencoder, Latent
from wellposed.priors.adapters.guided import Guided, Rule
from wellposed.priors.anchor import Condition
from wellposed.priors.prediction import Components
from wellposed.priors.text.condition import TextCondition
from wellposed.priors.text.diffusion import TextDiffusion
from wellposed.priors.text.encoder import Prompt, TextEncoder


class Prompted(Latent):
    """A latent diffusion with a prompt, made by ``priors.load(folder, prompt="...")``.

    Stable Diffusion 1, 2 and 3, SDXL, FLUX.1 and latent consistency models. Text is encoded once;
    its encoders are released and read again for another prompt. The condition is a value, so two
    prompts share the network: ``target = source.with_prompt("a dog")``.

    Args:
        prior: the network with its condition and its classifier-free guidance.
        autoencoder: the autoencoder.
        text: encoder of the prompts.
        data_range: public values of the autoencoder's -1 and 1.
        found: what was found in the pipeline's folder, for users.

    Raises:
        ArgumentError: a condition or an autoencoder that does not fit the network.

    Example:
        >>> from wellposed import priors
        >>> source = "stable-diffusion-v1-5/stable-diffusion-v1-5"
        >>> prior = priors.load(source, prompt="a cat", guidance=5.0)  # hub # doctest: +SKIP
        >>> dog = prior.with_prompt("a dog")  # doctest: +SKIP
    """

    prior: Guided
    autoencoder: DiffusersAutoencoder

    def __init__(
        self,
        prior: Guided,
        autoencoder: DiffusersAutoencoder,
        text: TextEncoder,
        data_range: tuple[float, float] = (0.0, 1.0),
        found: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(prior, autoencoder, data_range)
        self.text, self.found = text, dict(found or {})

    @property
    def diffusion(self) -> TextDiffusion:
        """The network without a condition, on latents."""
        inner = self.prior.prior
        assert isinstance(inner, TextDiffusion)
        return inner

    @property
    def condition(self) -> TextCondition:
        """What the prompt was encoded as."""
        assert isinstance(self.prior.condition, TextCondition)
        return self.prior.condition

    @property
    def null(self) -> TextCondition | None:
        """What the negative prompt was encoded as; None for networks told their guidance."""
        assert isinstance(self.prior.null, TextCondition | None)
        return self.prior.null

    @property
    def computes_on(self) -> torch.device | None:
        """Device on which the networks compute."""
        return self.diffusion.computes_on

    def conditioned(
        self,
        condition: TextCondition,
        null: TextCondition | None = None,
        guidance: NonNegative | Rule | None = None,
    ) -> Self:
        """Return a prior with another condition and the same network.

        Args:
            condition: the condition; estimates are differentiable in its tensors.
            null: condition of the guidance's other estimate; by default the same as now.
            guidance: weight of classifier-free guidance, see `Guided`; by default the same.

        Raises:
            ArgumentError: a condition that the network cannot be told.
        """
        null = self.null if null is None else null
        weight = self.prior.guidance if guidance is None else guidance
        twin = copy.copy(self)
        # A shallow copy shares the dictionary of parts as well.
        twin._modules = dict(self._modules)
        twin.prior = Guided(self.diffusion, condition, weight, null, self.prior.rescale)
        return twin

    def encode(self, *prompts: Prompt | None) -> tuple[TextCondition, ...]:
        """Return the conditions of prompts, from text encoders read for this call.

        Args:
            prompts: each a prompt for all images, or one for each; None for the pipeline's own
                condition without a prompt, which for some of SDXL's models is zero.

        Raises:
            CheckpointError: the encoders cannot be read any more.
        """
        return self.text(*prompts, guidance=self.condition.guidance)

    def with_prompt(self, prompt: Prompt, negative_prompt: Prompt | None = None) -> Self:
        """Return a prior with another prompt and the same network and guidance.

        Args:
            prompt: the prompt.
            negative_prompt: the prompt of the guidance's other estimate; by default the same.

        Raises:
            ArgumentError: a negative prompt for a network that is told its guidance.
            CheckpointError: the encoders cannot be read any more.
        """
        if negative_prompt is None:
            (given,) = self.encode(prompt)
            return self.conditioned(given)
        self.diffusion.network.require_negative(negative_prompt)
        given, null = self.encode(prompt, negative_prompt)
        return self.conditioned(given, null)

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return ``E[z | x_t]`` of scaled latents, for the held condition or another one."""
        return self._with(condition).prior.denoise(x_t, t)

    def components(
        self, x_t: Tensor, t: float | Tensor, condition: Condition = None
    ) -> Components:
        """Return the components of scaled latents, as `denoise`."""
        return self._with(condition).prior.components(x_t, t)

    def _with(self, condition: Condition) -> "Prompted":
        if condition is None:
            return self
        return self.conditioned(self.diffusion.network.require_condition(condition))

    def check_image(self, x: Tensor) -> None:
        """Raise unless the prior accepts the latents of ``x``; see `Prior.check_image`."""
        stride = self.factor * self.diffusion.network.patch
        if x.ndim == 4 and any(side % stride for side in x.shape[2:]):
            raise ShapeError(
                f"prior: made for images with sides in multiples of {stride}, but the operator's "
                f"images are {' x '.join(map(str, x.shape[2:]))}"
            )
        super().check_image(x)
