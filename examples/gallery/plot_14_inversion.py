"""
Inversion: the noise of which a prior makes an image
====================================================

`BDIA` runs the deterministic sampler backwards, exactly. Codes of two images can be mixed, and
their whiteness tells how usual an image is for the prior.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from wellposed import inversion, priors

ROOT = Path(__file__).resolve().parents[2]
hounsfield = torch.from_numpy(np.load(ROOT / "tests/data/held_out/andrei_abdomen.npy")).float()
body = ((hounsfield + 1000) / 2000).clamp(0, 1)
images = torch.stack([body[40:104, 40:104], body[80:144, 90:154]])[:, None]

# %%
# Both images are inverted in one call.

prior = priors.load("ct")
code = inversion.BDIA(steps=25).encode(images, prior)
decoded = code.decode(prior)
print(code)
print("largest difference after the round trip:", float((decoded - images).abs().max()))
print("standard deviation of the codes, 1 for white noise:", code.whiteness.std.tolist())

# %%
# Half way between two codes.

first, second = (inversion.BDIA(steps=25).encode(image[None], prior) for image in images)
middle = first.interpolate(second, 0.5).decode(prior)
mixed = images.mean(0, keepdim=True)

pictures = {
    "first": images[0],
    "its code": code.x_T[0],
    "second": images[1],
    "between the codes": middle[0],
    "mean of the images": mixed[0],
}
figure, axes = plt.subplots(1, 5, figsize=(11, 2.5))
for place, (name, picture) in zip(axes, pictures.items(), strict=True):
    limits = {} if name == "its code" else {"vmin": 0.3, "vmax": 0.7}
    place.imshow(picture[0].real, cmap="gray", **limits)
    place.set_title(name, fontsize=9)
    place.set_axis_off()
figure.tight_layout()
