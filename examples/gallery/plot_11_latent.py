"""
Latents: a prior behind a decoder
=================================

A latent prior lives in the code of an autoencoder, and the measurement goes through the decoder.
Any object with ``encode`` and ``decode`` is an autoencoder. Here it is linear, the principal
components of 8 x 8 patches of another photograph, so that the example needs no download;
`DiffusersAutoencoder` takes those of Stable Diffusion and others.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

from wellposed import metrics, operators, priors, solvers
from wellposed.datasets import read_array

ROOT = Path(__file__).resolve().parents[2]


def photograph(path: str) -> torch.Tensor:
    """Return a photograph (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(read_array(ROOT / path)).permute(2, 0, 1)[None]


# %%
# The autoencoder works on images in [-1, 1]. Latents have unit variance, so the Gaussian prior of
# their diffusion has variance 1.


class Patches:
    """Principal components of patches, with unit variance."""

    factor, image_channels, latent_channels = 8, 3, 48

    def __init__(self, training: torch.Tensor) -> None:
        patches = F.unfold(2 * training - 1, 8, stride=4)[0].T
        self.mean = patches.mean(0)
        _, size, basis = torch.linalg.svd(patches - self.mean, full_matrices=False)
        scale = size[: self.latent_channels, None] / len(patches) ** 0.5
        self.down = (basis[: self.latent_channels] / scale).reshape(-1, 3, 8, 8)
        self.up = (basis[: self.latent_channels] * scale).reshape(-1, 3, 8, 8)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Return latents (B, 48, H / 8, W / 8)."""
        tiled = self.mean.reshape(1, 3, 8, 8).repeat(1, 1, x.shape[2] // 8, x.shape[3] // 8)
        return F.conv2d(x - tiled, self.down, stride=8)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Return images."""
        tiled = self.mean.reshape(1, 3, 8, 8).repeat(1, 1, z.shape[2], z.shape[3])
        return F.conv_transpose2d(z, self.up, stride=8) + tiled


autoencoder = Patches(photograph("examples/data/kodak_23.png"))
latents = priors.GaussianPrior(0.0, 1.0)
latents.channels = autoencoder.latent_channels
prior = priors.Latent(latents, autoencoder)

# %%
# Half the pixels are missing. `solvers.recommend` gives `REDDiff` for one image under a latent
# prior, and `DPS` for samples.

image = photograph("tests/data/held_out/kodak_08.png")[..., 64:128, 64:128]
operator = operators.Inpainting(operators.random_mask(64, 64, 0.5, seed=0), noise_sigma=0.05)
y = operator.measure(image, seed=0)
estimate = solvers.REDDiff(steps=100, learning_rate=0.2)(y, operator, prior, seed=0)
samples = solvers.DPS(steps=100, zeta=3.0)(y, operator, prior, num_samples=4, seed=0)

coded = prior.to_public(prior.to_units(image))
rows = {"best in the code": coded, "REDDiff": estimate.mean, "DPS, mean of 4": samples.mean}
for name, found in rows.items():
    print(f"{name:17} {float(metrics.psnr(found, image)):.2f} dB")

# %%

picture = samples.plot(others={"measured": y, **rows}, truth=image)
picture
