"""Against zea (Apache-2.0), where it has the same function; skipped where it is not installed."""

import math
import os

import numpy as np
import pytest
import torch
from tests.helpers import random

from wellposed.datasets.ultrasound import (
    Sector,
    cnr,
    compand,
    contrast,
    envelope,
    expand,
    gcnr,
    log_compress,
    scan_convert,
    speckle_snr,
)

os.environ.setdefault("KERAS_BACKEND", "torch")
zea = pytest.importorskip("zea")

from zea.display import scan_convert_2d  # noqa: E402
from zea.func import ultrasound as theirs  # noqa: E402
from zea.metrics import get_metric  # noqa: E402
from zea.ops import Companding  # noqa: E402

RF = random(1, 1, 96, 40, dtype=torch.float32)
LEFT = torch.zeros(1, 1, 96, 40, dtype=torch.bool)
LEFT[..., :17] = True


def as_torch(value):
    return torch.as_tensor(np.asarray(value.detach() if hasattr(value, "detach") else value))


@pytest.mark.parametrize("expanding", [False, True])
def test_companding(expanding):
    x = RF.clamp(-1, 1)
    found = Companding(expand=expanding, comp_type="mu")(data=x, mu=255.0)["data"]
    torch.testing.assert_close((expand if expanding else compand)(x), as_torch(found))


def test_envelopes_and_decibels():
    bells = envelope(RF)[0, 0]
    # Their `envelope_detect` pads the depth first, which changes the ends.
    torch.testing.assert_close(bells, as_torch(theirs.hilbert(RF[0, 0], axis=-2)).abs())
    decibels = as_torch(theirs.log_compress(bells / bells.max()))
    grey = log_compress(bells[None], 1000.0)[0]
    torch.testing.assert_close(grey, 1 + decibels / 1000, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "ours"), [("gcnr", gcnr), ("contrast", contrast), ("cnr", cnr)])
def test_contrasts(name, ours):
    bells = envelope(RF * (1 + LEFT))
    expected = get_metric(name)(bells[LEFT], bells[~LEFT])
    assert ours(bells, LEFT, ~LEFT).item() == pytest.approx(float(expected), rel=1e-4)


def test_speckle():
    bells = envelope(RF)
    expected = float(get_metric("snr")(bells))
    every = torch.ones(1, dtype=torch.bool)
    assert speckle_snr(bells, every).item() == pytest.approx(expected, rel=1e-3)


def test_scan_conversion():
    """Compared where both pixels lie: theirs begin at the corner, ours are centred."""
    sector, height = Sector(depths=96, beams=40, depth_mm=60.0, centre_mhz=0.4), 240
    image = envelope(RF)
    ours = scan_convert(image, sector, height, math.nan)[0, 0]
    ends = [v[[0, -1]].tolist() for v in (sector.radii(), sector.angles())]
    pixel, half = 60 / height, ours.shape[1] // 2
    x = (np.arange(2 * half) + 0.5 - half) * pixel
    z = (np.arange(height) + 0.5) * pixel
    radius, angle = np.hypot(x, z[:, None]), np.arctan2(x, z[:, None])
    rows = (radius - ends[0][0]) / sector.step_mm
    columns = (angle - ends[1][0]) / sector.step_radians
    places = torch.from_numpy(np.stack([rows.T, columns.T])).float()
    found, _ = scan_convert_2d(
        image[0, 0], *map(tuple, ends), coordinates=places, fill_value=math.nan
    )
    both = torch.isfinite(ours) & torch.isfinite(as_torch(found))
    assert both.sum() > 0.9 * torch.isfinite(ours).sum()
    torch.testing.assert_close(ours[both], as_torch(found)[both], rtol=0, atol=1e-3)
