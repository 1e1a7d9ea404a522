"""Poisson-disc masks by their properties, fastMRI's against recorded ones and their definition."""

import math

import numpy as np
import pytest
import torch

from wellposed.errors import ArgumentError, UnknownNameError
from wellposed.operators.mri.fastmri_masks import fastmri_lines
from wellposed.operators.mri.masks import (
    equispaced_lines,
    gaussian_random_2d,
    poisson_disc_2d,
    uniform_random_lines,
)

# Printed by fastmri.data.subsample 0.3.0 (MIT), with one acceleration and one centre fraction.
RECORDED = [
    ("random", 40, 4, 0.08, 0, None, "0000000000000011100111001010000000100000"),
    ("random", 41, 4, 0.1, (102, 105, 108, 101), None, "00100001100000110001111" + "0" * 18),
    ("equispaced", 40, 4, 0.08, 0, None, "1000100010001000100111001000100010001000"),
    ("equispaced", 33, 8, 0.04, 5, 3, "000100000001000010010000000100000"),
    ("equispaced_fraction", 40, 4, 0.08, 0, None, "0000100001000001000111000100001000001000"),
    (
        "equispaced_fraction",
        47,
        8,
        0.04,
        1,
        None,
        "00000100000000000100000110001000000000001000000",
    ),
    ("magic", 40, 4, 0.08, 0, None, "0100010001000100010111000100010001000100"),
    ("magic", 41, 4, 0.08, 3, None, "00010001000100010001110100010001000100010"),
    ("magic_fraction", 40, 4, 0.08, 0, None, "0100000100000100000111000100000100000100"),
    (
        "magic_fraction",
        47,
        8,
        0.04,
        1,
        None,
        "000000100000000000100001100000100" + "00000000010000",
    ),
    ("magic_fraction", 41, 4, 0.0, 3, 2, "10000100001000010000100100001000010000100"),
]
KINDS = ["random", "equispaced", "equispaced_fraction", "magic", "magic_fraction"]


# --- fastMRI --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "width", "acceleration", "center", "seed", "at", "lines"), RECORDED
)
def test_fastmri_masks_are_those_its_code_draws(
    kind, width, acceleration, center, seed, at, lines
):
    mask = fastmri_lines(kind, width, acceleration, center, seed, at)
    assert mask.dtype == torch.float32
    assert "".join(str(int(line)) for line in mask) == lines


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [64, 320, 367, 368])
def test_fastmri_masks_keep_the_centre_and_about_the_stated_number(kind, width):
    counts = []
    for seed in range(40):
        mask = fastmri_lines(kind, width, 4, 0.08, seed)
        center = round(0.08 * width)
        start = (width - center + 1) // 2
        assert mask[start : start + center].all()
        counts.append(float(mask.sum()))
        assert torch.equal(mask, fastmri_lines(kind, width, 4, 0.08, seed))
    spread = {"random": 0.05, "equispaced_fraction": 0.05, "magic_fraction": 0.15}.get(kind, 0.35)
    assert width / 4 * (1 - spread) < np.mean(counts) < width / 4 * (1 + spread)


def test_fastmri_offsets_run_over_all_lines():
    masks = [fastmri_lines("equispaced", 64, 4, 0.0, 0, offset) for offset in range(4)]
    assert torch.equal(torch.stack(masks).sum(0), torch.ones(64))
    assert {int(fastmri_lines("equispaced", 64, 4, 0.0, s).argmax()) for s in range(40)} == {
        0, 1, 2, 3
    }  # fmt: skip


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_magic_masks_take_no_lines_mirror_image(offset):
    mask = fastmri_lines("magic", 64, 4, 0.0, 0, offset)
    mirror = mask[1:].flip(0)  # frequency -k lies opposite k about line 32
    assert mask.sum() > 0 and not (mask[1:] * mirror).any()


def test_fastmri_masks_leave_the_global_generators_alone():
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    for kind in KINDS:
        fastmri_lines(kind, 64, 4, 0.08, 3)
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


GOOD = {"kind": "equispaced", "width": 64, "acceleration": 4, "center_fraction": 0.08, "seed": 0}


def test_bad_fastmri_masks_are_refused():
    for changes, error, match in (
        ({"kind": "equispace"}, UnknownNameError, "kind: .*Did you mean 'equispaced'"),
        ({"width": 0}, ArgumentError, "width: got 0"),
        ({"width": 64.0}, ArgumentError, "width"),
        ({"acceleration": 0}, ArgumentError, "acceleration: got 0"),
        ({"acceleration": 65}, ArgumentError, "acceleration: got 65"),
        ({"acceleration": 4.5}, ArgumentError, "acceleration: got 4.5"),
        ({"acceleration": math.nan, "kind": "random"}, ArgumentError, "acceleration"),
        ({"center_fraction": -0.1}, ArgumentError, "center_fraction: got -0.1"),
        ({"center_fraction": 1.1}, ArgumentError, "center_fraction"),
        ({"center_fraction": 0.3, "kind": "random"}, ArgumentError, "19 lines.*fewer than 16"),
        ({"center_fraction": 0.3, "kind": "equispaced_fraction"}, ArgumentError, "fewer than 16"),
        ({"offset": 4}, ArgumentError, "offset: got 4, accepted: an integer from 0 to 3"),
        ({"offset": -1}, ArgumentError, "offset"),
        ({"offset": 1.5}, ArgumentError, "offset: got 1.5"),
        ({"offset": True}, ArgumentError, "offset: got True"),
        ({"width": True}, ArgumentError, "width: got True"),
        ({"center_fraction": 0.3, "kind": "magic_fraction"}, ArgumentError, "19.*fewer than 16"),
        ({"acceleration": 64, "kind": "magic_fraction"}, ArgumentError, "fewer than 1"),
        ({"offset": 1, "kind": "random"}, ArgumentError, "offset: got 1, accepted: None"),
        ({"seed": -1}, ArgumentError, "seed: got -1"),
        ({"seed": "file"}, ArgumentError, "seed: got 'file'"),
    ):
        fastmri_lines(**GOOD)
        with pytest.raises(error, match=match):
            fastmri_lines(**GOOD | changes)


# --- Poisson disc ---------------------------------------------------------------------------


def radius(height: int, width: int) -> torch.Tensor:
    i, j = (2 * (torch.arange(n) - n // 2) / n for n in (height, width))
    return (i[:, None] ** 2 + j**2).sqrt()


@pytest.mark.parametrize(
    ("height", "width", "acceleration", "fraction"),
    [(64, 64, 4, 0.1), (48, 81, 6.5, 0.08), (31, 20, 3, 0.0), (40, 40, 1, 0.1), (9, 5, 2, 0.4)],
)
def test_poisson_masks_take_exactly_the_stated_number(height, width, acceleration, fraction):
    mask = poisson_disc_2d(height, width, acceleration, fraction, seed=2)
    assert mask.shape == (height, width) and mask.dtype == torch.float32
    assert ((mask == 0) | (mask == 1)).all()
    assert int(mask.sum()) == round(height * width / acceleration)
    rows, columns = int(fraction * height), int(fraction * width)
    top, left = height // 2 - rows // 2, width // 2 - columns // 2
    assert mask[top : top + rows, left : left + columns].all()
    assert torch.equal(mask, poisson_disc_2d(height, width, acceleration, fraction, seed=2))


@pytest.mark.parametrize(("height", "width"), [(96, 96), (64, 110)])
def test_poisson_points_keep_a_distance_that_grows_from_the_centre(height, width):
    mask = poisson_disc_2d(height, width, 8, 0.05, seed=1)
    points = mask.nonzero().double()
    r = radius(height, width)[mask == 1]
    apart = torch.cdist(points, points).fill_diagonal_(math.inf)
    # One scale s with |p - q| >= s min(r(p), r(q)) for all pairs, far above that of random points.
    scale = (apart / torch.minimum(r[:, None], r)).amin()
    assert scale > 4
    nearest = apart.amin(1)
    assert nearest[r > 0.9].mean() > 2 * nearest[r < 0.35].mean()
    # No room is left: within 2.5 times its own reach of every free place is a point.
    gaps = torch.cdist((mask == 0).nonzero().double(), points).amin(1)
    assert (gaps < 2.5 * scale * radius(height, width)[mask == 0]).all()


def test_poisson_masks_differ_by_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    masks = [poisson_disc_2d(32, 32, 4, seed=s) for s in (0, 1)]
    assert not torch.equal(*masks)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0, 8, 2), "height: got 0"),
        ((8, 8.0, 2), "width: got 8.0"),
        ((8, 8, 0.5), "acceleration: got 0.5"),
        ((8, 8, math.inf), "acceleration"),
        ((8, 8, 2, 1.5), "center_fraction: got 1.5"),
        ((8, 8, 8, 0.9), "acceleration: got 8, accepted: at most"),
    ],
)
def test_bad_poisson_masks_are_refused(arguments, match):
    with pytest.raises(ArgumentError, match=match):
        poisson_disc_2d(*arguments)


# --- numbers of NumPy -----------------------------------------------------------------------


def test_numbers_of_numpy_are_numbers():
    i, f = np.int64, np.float32
    for made, plain in (
        (equispaced_lines(i(16), i(4), f(0.25), i(1)), equispaced_lines(16, 4, 0.25, 1)),
        (uniform_random_lines(i(16), f(2), f(0.25)), uniform_random_lines(16, 2, 0.25)),
        (gaussian_random_2d(i(8), i(9), f(2), f(0.25)), gaussian_random_2d(8, 9, 2, 0.25)),
        (poisson_disc_2d(i(8), i(9), i(2), f(0.25)), poisson_disc_2d(8, 9, 2, 0.25)),
        (
            fastmri_lines("magic", i(16), i(4), f(0.25), 0, i(1)),
            fastmri_lines("magic", 16, 4, 0.25, 0, 1),
        ),
    ):
        assert torch.equal(made, plain)
