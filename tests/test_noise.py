"""Streams of noise: a function of seed, item and position alone."""

import math

import numpy as np
import pytest
import torch

from wellposed import errors
from wellposed.noise import (
    COUNTS,
    MEASUREMENT,
    SAMPLING,
    ItemNoise,
    RecordedNoise,
    item_generator,
)

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
ITEMS = [(0, 0), (0, 1), (1, 0), (7, 3)]


def like(*shape, dtype=torch.float64):
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_draws_have_the_shape_dtype_and_distribution_asked_for(dtype):
    target = like(4, 3, 50, 40, dtype=dtype)
    noise = ItemNoise(0, ITEMS).draw(target)
    assert noise.shape == target.shape
    assert noise.dtype == dtype
    parts = [noise.real, noise.imag] if dtype.is_complex else [noise]
    for part in parts:
        n = part[0].numel()
        for one in part:
            assert abs(float(one.mean())) < 4 / math.sqrt(n)
            assert abs(float(one.std()) - 1) < 4 / math.sqrt(2 * n)
            assert abs(float((one**4).mean()) - 3) < 4 * math.sqrt(96 / n)
        correlations = torch.corrcoef(part.flatten(1)) - torch.eye(4)
        assert float(correlations.abs().max()) < 4.5 / math.sqrt(n)
    if dtype.is_complex:
        assert abs(float((noise.real * noise.imag).mean())) < 4 / math.sqrt(noise.numel())


def test_draws_are_those_of_a_generator_of_their_own():
    """Of Philox with a key of seed and item, at the counter of position and slice."""
    noise = ItemNoise(5, ITEMS, first_slice=2)
    for position in range(2):
        drawn = noise.draw(like(4, 2, 3, 5, 7))
        for item, found in zip(ITEMS, drawn, strict=True):
            words = np.random.SeedSequence(5, spawn_key=(SAMPLING, *item))
            key = words.generate_state(2, np.uint64)
            for number in range(3):
                counter = np.array([0, position, 2 + number, 0], dtype=np.uint64)
                own = np.random.Generator(np.random.Philox(key=key, counter=counter))
                expected = own.standard_normal((2, 5, 7))
                assert np.array_equal(found[:, number].numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_an_item_is_the_same_in_any_batch_and_order(dtype):
    together = ItemNoise(5, ITEMS)
    singles = [ItemNoise(5, [item]) for item in ITEMS]
    backwards = ItemNoise(5, ITEMS[::-1])
    for _ in range(3):
        noise = together.draw(like(4, 2, 3, dtype=dtype))
        for row, single in zip(noise, singles, strict=True):
            assert torch.equal(single.draw(like(1, 2, 3, dtype=dtype))[0], row)
        assert torch.equal(backwards.draw(like(4, 2, 3, dtype=dtype)).flip(0), noise)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [(torch.float64, torch.float32), (torch.complex128, torch.complex64)],
)
def test_lower_precision_rounds_the_same_numbers(wide, narrow):
    a, b = (ItemNoise(1, [(0,)]).draw(like(1, 9, dtype=dtype)) for dtype in (wide, narrow))
    assert torch.equal(a.to(narrow), b)


def test_a_run_resumes_at_its_position():
    source = ItemNoise(3, ITEMS)
    draws = [source.draw(like(4, 5)) for _ in range(4)]
    assert source.position == 4
    resumed = ItemNoise(3, ITEMS)
    resumed.position = 2
    assert torch.equal(resumed.draw(like(4, 5)), draws[2])
    assert torch.equal(resumed.draw(like(4, 5)), draws[3])
    # A draw does not depend on the sizes of those before it.
    other = ItemNoise(3, ITEMS)
    other.draw(like(4, 1000))
    assert torch.equal(other.draw(like(4, 5)), draws[1])


def test_streams_do_not_repeat():
    """All pairs of seeds, items, purposes and positions differ, near and large ones too."""
    seen = set()
    seeds = (0, 1, 2, 2**31, 2**32, 2**32 + 1, 2**63, 2**70)
    for seed in seeds:
        for purpose in (SAMPLING, MEASUREMENT):
            source = ItemNoise(seed, ITEMS, purpose)
            for _ in range(3):
                seen.update(tuple(row.tolist()) for row in source.draw(like(4, 2)))
    assert len(seen) == len(seeds) * 2 * 3 * len(ITEMS)


def test_consecutive_draws_do_not_overlap_and_are_uncorrelated():
    source = ItemNoise(0, [(0,)])
    draws = torch.cat([source.draw(like(1, 5000)) for _ in range(6)])
    assert len(draws.unique()) == draws.numel()
    assert float((torch.corrcoef(draws) - torch.eye(6)).abs().max()) < 4.5 / math.sqrt(5000)


def test_global_generators_are_left_alone():
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    ItemNoise(0, ITEMS).draw(like(4, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002


def test_the_noise_follows_the_device(device):
    noise = ItemNoise(2, ITEMS).draw(like(4, 3).to(device))
    assert noise.device.type == device.type
    assert torch.equal(noise.cpu(), ItemNoise(2, ITEMS).draw(like(4, 3)))


@pytest.mark.parametrize("seed", [-1, 1.0, "0", None, True, np.int64(3)])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(errors.ArgumentError, match="seed: got"):
        ItemNoise(seed, [(0,)])
    with pytest.raises(errors.ArgumentError, match="seed: got"):
        item_generator(seed, (0,), COUNTS)


def test_bad_targets_are_refused():
    source = ItemNoise(0, ITEMS)
    with pytest.raises(errors.ShapeError, match="like: got 3 items, accepted: 4"):
        source.draw(like(3, 2))
    with pytest.raises(errors.DtypeError, match=r"like: got torch\.int64"):
        source.draw(like(4, 2, dtype=torch.int64))
    assert source.position == 0


# --- recorded draws -------------------------------------------------------------------------


def test_recorded_draws_are_replayed_in_order():
    values = np.random.default_rng(0).standard_normal((3, 2, 4))
    for draws in (values, torch.from_numpy(values), list(values)):
        source = RecordedNoise(draws)
        for i in range(3):
            found = source.draw(like(2, 4, dtype=torch.float32))
            assert found.dtype == torch.float32
            np.testing.assert_allclose(found.numpy(), values[i], rtol=1e-6)
            assert source.position == i + 1
        with pytest.raises(errors.ArgumentError, match="noise: all 3 recorded draws"):
            source.draw(like(2, 4))
        source.position = 1
        np.testing.assert_array_equal(source.draw(like(2, 4)).numpy(), values[1])


def test_halves_of_real_arrays_are_real_and_imaginary_parts():
    values = np.random.default_rng(0).standard_normal((2, 6, 4))
    found = RecordedNoise([values]).draw(like(2, 3, 4, dtype=torch.complex128))
    np.testing.assert_array_equal(found.real.numpy(), values[:, :3])
    np.testing.assert_array_equal(found.imag.numpy(), values[:, 3:])
    whole = RecordedNoise([found]).draw(like(2, 3, 4, dtype=torch.complex128))
    assert torch.equal(whole, found)


@pytest.mark.parametrize(
    ("draw", "target", "error", "match"),
    [
        (torch.zeros(2, 3), like(2, 4), errors.ShapeError, r"noise: draw 0 .*\(2, 4\)"),
        (torch.zeros(2, 3, 4), like(2, 4), errors.ShapeError, "noise: draw 0"),
        (
            torch.zeros(2, 3, 4),
            like(2, 3, 4, dtype=torch.complex64),
            errors.ShapeError,
            r"noise: draw 0 has shape \(2, 3, 4\), accepted: \(2, 6, 4\)",
        ),
        (torch.zeros(2, 1, 4), like(2, 1, 4, dtype=torch.complex64), errors.ShapeError, "noise"),
        (torch.zeros(2, 4, dtype=torch.complex64), like(2, 4), errors.DtypeError, "noise: draw 0"),
    ],
)
def test_recorded_draws_that_do_not_fit_are_refused(draw, target, error, match):
    source = RecordedNoise([draw])
    with pytest.raises(error, match=match):
        source.draw(target)
    assert source.position == 0
