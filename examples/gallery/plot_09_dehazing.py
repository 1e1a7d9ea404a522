"""
Ultrasound: haze removed from RF
================================

Haze adds to the RF signal of the tissue, ``y = x + gamma h``. Tissue and haze are found together,
each with its own prior. The heart is simulated and belongs to the test split, which the priors
have not seen.
"""

import matplotlib.pyplot as plt

from wellposed import priors
from wellposed.datasets.ultrasound import b_mode, dehazing_scores, simulate_echoes
from wellposed.solvers import dehaze

# %%
# RF is in [-1, 1], of shape (frames, 1, depths, beams). The haze is 28 dB below the peak.

echoes = simulate_echoes([0], "test")
hazy, tissue = echoes.hazy(-28)[:, :, 256:640], echoes.tissue[:, :, 256:640]
print(tuple(hazy.shape))

# %%
# An estimate of tissue and haze in 8 evaluations of each network.

found = dehaze(hazy, priors.load("tissue-rf"), priors.load("haze-rf"))
print(f"{found.nfe} evaluations of each network in {found.seconds:.1f} s")
for name, rf in (("hazy", hazy), ("dehazed", found.tissue)):
    scores = dehazing_scores(rf, tissue)
    rf_db, b_mode_db = float(scores["psnr_rf"]), float(scores["psnr_b_mode"])
    print(f"{name:8} RF {rf_db:.1f} dB, B-mode {b_mode_db:.1f} dB")

# %%

pictures = {"hazy": hazy, "dehazed": found.tissue, "haze found": found.haze, "truth": tissue}
figure, axes = plt.subplots(1, 4, figsize=(11, 4.2))
for place, (name, rf) in zip(axes, pictures.items(), strict=True):
    place.imshow(b_mode(rf)[0, 0], cmap="gray", aspect="auto", vmin=0, vmax=1)
    place.set(title=name, xlabel="beam", xticks=[], yticks=[])
axes[0].set_ylabel("depth")
figure.tight_layout()
