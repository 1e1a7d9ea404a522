"""Images of MONAI: their axes and places, and reconstruction among its transforms."""

import importlib
import sys

import numpy as np
import pytest
import torch
from tests.helpers import C64, random

from wellposed import operators, priors, solvers
from wellposed.datasets import from_monai, load_nifti, write_nifti
from wellposed.errors import ArgumentError, MissingPackageError, NonFiniteError, ShapeError

AFFINE = np.array([[0, -2, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 20], [0, 0, 0, 1.0]])
X, Y, Z = 5, 6, 4


class Meta(torch.Tensor):
    """As much of a MetaTensor as is read: MONAI takes seconds to import."""

    @staticmethod
    def of(values, affine=AFFINE, **meta):
        found = torch.as_tensor(values).as_subclass(Meta)
        found.affine, found.meta = torch.as_tensor(affine), meta
        return found


def test_axes_and_places_are_those_of_nifti(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    array = np.random.default_rng(0).random((X, Y, Z)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), tmp_path / "a.nii")
    stored = load_nifti(tmp_path / "a.nii")
    found = from_monai(Meta.of(array[None]))
    assert torch.equal(found.volume, stored.volume)
    np.testing.assert_allclose(found.affine, stored.affine)
    assert found.spacing == pytest.approx(stored.spacing)
    write_nifti(tmp_path / "b.nii", found.volume, found)
    written = nibabel.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(written.get_fdata(), array)
    np.testing.assert_allclose(written.affine, AFFINE)


def test_spaces_channels_and_planes():
    array = np.zeros((X, Y, Z), np.float32)
    turned = from_monai(Meta.of(array[None], np.diag([-1, -1, 1, 1]) @ AFFINE, space="LPS"))
    np.testing.assert_allclose(turned.affine, AFFINE)
    for image in (array, array[None]):
        assert from_monai(Meta.of(image, spatial_shape=[9, 9, 9])).volume.shape == (1, 1, Z, Y, X)
    plane = from_monai(Meta.of(np.zeros((3, X, Y)), AFFINE[np.ix_([0, 1, 3], [0, 1, 3])]))
    assert plane.volume.shape == (1, 3, 1, Y, X)
    np.testing.assert_allclose(plane.affine[:2, [0, 1, 3]], AFFINE[:2, [0, 1, 3]])
    assert from_monai(Meta.of(random(1, X, Y, dtype=C64))).volume.dtype == C64


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        (np.zeros((1, X, Y)), ArgumentError, "image: got ndarray, accepted: a MetaTensor"),
        (torch.zeros(1, X, Y), ArgumentError, "accepted: a MetaTensor of MONAI"),
        (Meta.of(np.zeros((1, 1, X, Y, Z))), ShapeError, "one image"),
        (Meta.of(np.full((1, X, Y), np.nan)), NonFiniteError, "image"),
        (Meta.of(np.zeros((1, X, Y)), 0 * AFFINE), ArgumentError, "cannot be inverted"),
        (Meta.of(np.zeros((1, X, Y)), AFFINE[None]), ArgumentError, "an affine"),
        (Meta.of(np.zeros((1, X, Y)), space="scanner"), ArgumentError, "the space 'scanner'"),
    ],
)
def test_what_is_no_image_of_monai_is_refused(image, error, text):
    with pytest.raises(error, match=text):
        from_monai(image)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    monkeypatch.delitem(sys.modules, "wellposed.monai", raising=False)
    with pytest.raises(
        MissingPackageError, match=r"needs monai; pip install 'wellposed\[monai\]'"
    ):
        importlib.import_module("wellposed.monai")


# --- the transform, with MONAI itself -------------------------------------------------------

PRIOR = priors.GaussianPrior(0.5, 0.1)


@pytest.fixture(scope="module")
def monai():
    return pytest.importorskip("monai")


@pytest.mark.slow
def test_it_is_a_transform_among_others(monai, tmp_path):
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, ShiftIntensityd

    from wellposed.monai import Reconstructd

    nibabel = pytest.importorskip("nibabel")
    array = np.random.default_rng(0).random((X, Y, Z)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), tmp_path / "a.nii")
    operator = operators.Stacked(operators.Denoising((1, Y, X), 0.1), Z)
    solve = Reconstructd("image", operator, solvers.DDS(steps=3), PRIOR, num_samples=2)
    load = [LoadImaged("image"), EnsureChannelFirstd("image")]
    data = {"image": tmp_path / "a.nii", "label": 3}
    before = Compose(load)(data)["image"]
    found = Compose([*load, solve, ShiftIntensityd("image", offset=1.0)])(data)
    assert set(found) == {"image", "label", "image_std"}
    assert found["label"] == 3
    y = from_monai(before).volume
    result = solvers.DDS(steps=3)(y, operator, PRIOR, num_samples=2, seed=0)
    for key, wanted in (("image", result.mean + 1), ("image_std", result.std)):
        image = found[key]
        assert type(image).__name__ == "MetaTensor"
        assert torch.equal(image.affine, before.affine)
        assert image.meta["filename_or_obj"] == before.meta["filename_or_obj"]
        torch.testing.assert_close(from_monai(image).volume, wanted, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(from_monai(found["image"]).affine, AFFINE)
    with pytest.raises(ShapeError, match="EnsureChannelFirstd before"):
        solve(load[0](data))


@pytest.mark.slow
def test_a_finer_grid_lies_in_the_same_place(monai):
    from monai.data import MetaTensor

    from wellposed.monai import Reconstructd

    image = MetaTensor(random(1, X, Y).float(), affine=torch.tensor(AFFINE))
    solve = Reconstructd(
        ["image", "other"],
        lambda y: operators.SuperResolution((1, 2 * Y, 2 * X), 2, "average", 0.1),
        solvers.Tikhonov(weight=0.1),
        allow_missing_keys=True,
    )
    found = solve({"image": image})["image"]
    assert found.shape == (1, 2 * X, 2 * Y)
    corners = [(-0.5, -0.5), (X - 0.5, -0.5), (X - 0.5, Y - 0.5)]
    for x, y in corners:  # the outer corners of the field of view
        place = found.affine.numpy() @ [2 * x + 0.5, 2 * y + 0.5, 0, 1]
        np.testing.assert_allclose(place, AFFINE @ [x, y, 0, 1])
    with pytest.raises(KeyError, match="other"):
        Reconstructd("other", operators.Denoising((1, Y, X), 0.1), solvers.Tikhonov())({})


@pytest.mark.slow
def test_data_that_are_no_images_keep_their_axes(monai):
    from wellposed.monai import Reconstructd

    maps = operators.simulate_sensitivity_maps(3, 8, 6, seed=0)
    operator = operators.MultiCoilMRI(torch.ones(6), maps, 0.1)
    kspace = operator.measure(random(1, 1, 8, 6, dtype=C64))[0]
    prior = priors.GaussianPrior(0.0, 0.5, is_complex=True)
    solve = Reconstructd("kspace", operator, solvers.DDS(steps=2), prior)
    found = solve({"kspace": kspace.numpy()})["kspace"]
    assert type(found) is torch.Tensor
    assert torch.equal(found, solvers.DDS(steps=2)(kspace[None], operator, prior, seed=0).mean[0])
    for wrong, error in (
        ({"operator": 3}, ArgumentError),
        ({"solver": 3}, ArgumentError),
        ({"num_samples": 0}, ArgumentError),
        ({"seed": -1}, ArgumentError),
    ):
        given = {"operator": operator, "solver": solvers.DDS(), "prior": prior} | wrong
        with pytest.raises(error, match=f"{next(iter(wrong))}: got"):
            Reconstructd("kspace", **given)
