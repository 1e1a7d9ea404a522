"""Every kind of file is read by one function, and results are written in the same kind."""

import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from wellposed import Reconstruction, operators
from wellposed.cli.inputs import TaskInput, placed_like
from wellposed.cli.scans import kspace_task
from wellposed.cli.settings import InputOptions
from wellposed.cli.tasks import build_task
from wellposed.datasets.reading import Measured, inputs_of, read
from wellposed.datasets.writing import require_free, write_like
from wellposed.errors import ArgumentError, DtypeError, FileError, ShapeError
from wellposed.operators.mri.cartesian import fft2c
from wellposed.operators.plain import plain_image
from wellposed.units import Units

DATA = Path(__file__).parent / "data"
RNG = np.random.default_rng(0)


def kspace(slices=3, coils=4, height=24, width=20):
    """Complete k-space of discs, (slices, coils, H, W), and the discs."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    discs = np.stack([(x**2 + y**2 < 0.3 + 0.2 * n) for n in range(slices)]).astype(np.complex64)
    maps = operators.simulate_sensitivity_maps(coils, height, width)
    return fft2c(maps * torch.from_numpy(discs)[:, None]).numpy(), discs


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    photo = (255 * RNG.random((24, 32, 3))).astype(np.uint8)
    Pillow.fromarray(photo).save(folder / "colour.png")
    Pillow.fromarray(photo).save(folder / "colour.webp", lossless=True)
    Pillow.fromarray(photo[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    np.save(folder / "array.npy", RNG.random((24, 32)))
    np.save(folder / "text.npy", np.array([["a"]]))
    volume = RNG.random((12, 10, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([1, 2, 3, 1.0])), folder / "volume.nii.gz")
    shutil.copytree(DATA / "dicom", folder / "dicom")
    shutil.copy(DATA / "dicom" / "000048.dcm", folder / "without_suffix")
    shutil.copy(DATA / "tomopy_tooth_row.h5", folder)
    shutil.copytree(DATA / "htc2022", folder / "htc")
    with h5py.File(folder / "fastmri.h5", "w") as file:
        file["kspace"], file["reconstruction_rss"] = kspace()[0], abs(kspace()[1])
    with h5py.File(folder / "array.h5", "w") as file:
        file["image"] = RNG.random((24, 32))
    return folder


KINDS = {
    "colour.png": ("photograph", (24, 32, 3)),
    "colour.webp": ("photograph", (24, 32, 3)),
    "deep.png": ("photograph", (24, 32)),
    "array.npy": ("array", (24, 32)),
    "array.h5": ("array", (24, 32)),
    "volume.nii.gz": ("nifti", (5, 10, 12)),
    "dicom": ("dicom", (3, 96, 96)),
    "without_suffix": ("dicom", (1, 96, 96)),
    "fastmri.h5": ("fastmri", (3, 4, 24, 20)),
    "tomopy_tooth_row.h5": ("tomopy", (1, 1, 181, 640)),
    "htc/htc2022_ta_full.mat": ("htc", (1, 1, 721, 560)),
}


@pytest.mark.parametrize(("name", "kind", "shape"), [(k, *v) for k, v in KINDS.items()])
def test_every_kind_is_told_by_what_it_holds(files, name, kind, shape):
    found = read(files / name)
    assert found.kind == kind
    assert isinstance(found, Measured) == (kind in ("fastmri", "tomopy", "htc"))
    if kind not in ("tomopy", "htc", "dicom"):
        assert tuple(found.values.shape) == shape
    assert found.values.ndim == len(shape)


def test_dicom_has_unit_window_and_spacing(files):
    found = read(files / "dicom")
    header = found.source.headers[1]
    centre, width = (float(np.ravel(header[n].value)[0]) for n in ("WindowCenter", "WindowWidth"))
    assert found.unit == "HU"
    assert found.window == (centre - width / 2, centre + width / 2)
    assert found.spacing == found.source.spacing


def test_what_is_no_data_is_named(files, tmp_path):
    with pytest.raises(FileError, match=r"no such file.*no\.png"):
        read(files / "no.png")
    with pytest.raises(DtypeError, match=r"text\.npy has"):
        read(files / "text.npy")
    (tmp_path / "a.docx").write_text("")
    with pytest.raises(FileError, match="INPUT: no readable file"):
        inputs_of([tmp_path])
    with pytest.raises(FileError, match="INPUT: no file matches"):
        inputs_of([tmp_path / "*.png"])


def test_folders_and_patterns_name_what_can_be_read(files):
    names = {str(path.relative_to(files)) for path in inputs_of([files])}
    assert {"colour.png", "colour.webp", "dicom", "volume.nii.gz", "fastmri.h5"} <= names
    assert "htc/htc2022_ta_full.mat" in names
    assert not any("recon" in name for name in names)
    assert inputs_of([files / "colour.*"]) == [files / "colour.png", files / "colour.webp"]
    assert inputs_of([files / "colour.png", files / "*.png"])[0] == files / "colour.png"


def result_like(image, count=2, **units):
    """A perfect result of an image or volume in units of its own."""
    truth = torch.from_numpy(image.values.astype(np.float32))
    truth = truth.movedim(-1, 0) if truth.ndim == 3 and image.kind == "photograph" else truth[None]
    units = Units(**units)
    samples = ((truth - units.offset) / units.scale).expand(count, 1, *truth.shape)
    return Reconstruction(samples, torch.ones(count, 1), 1, 0.0, "exact", units=units)


@pytest.mark.parametrize("name", ["colour.png", "deep.png", "array.npy", "volume.nii.gz", "dicom"])
def test_a_perfect_result_is_the_input(files, tmp_path, name):
    image = read(files / name)
    out = tmp_path / "new" / "folder"
    written = write_like(result_like(image, offset=-3.0, scale=4.0), out, image.source)
    again = read(written[0])
    assert again.kind == image.kind
    tolerance = {"dicom": 0.05, "photograph": 1e-5}.get(image.kind, 1e-4)
    np.testing.assert_allclose(again.values, image.values, atol=tolerance)
    volume = image.kind in ("nifti", "dicom")
    assert len(written) == (2 if volume else 1)
    if volume:
        assert again.spacing == pytest.approx(image.spacing)
    if name == "deep.png":
        assert again.source.depth == 16
    if name == "dicom":
        assert again.window == pytest.approx(image.window)
        with pytest.raises(FileError, match="has the series of another result"):
            require_free(out, image.source)


def test_one_sample_has_no_std(files, tmp_path):
    for name in ("volume.nii.gz", "dicom"):
        image = read(files / name)
        written = write_like(result_like(image, 1), tmp_path / name, image.source)
        assert [path.name.split(".")[0] for path in written] == ["mean"]


@pytest.mark.parametrize(("unit", "kept"), [("HU", True), ("", False), ("1/mm", False)])
def test_a_window_is_kept_for_its_own_unit(files, unit, kept):
    place = placed_like(TaskInput(np.empty(0), Units(name=unit)), files / "dicom")
    assert all(("WindowWidth" in header) == kept for header in place.source.headers)
    assert "WindowWidth" in read(files / "dicom").source.headers[0]


def task(path, operator, **options):
    return build_task(path, operator, InputOptions(**options))


def test_measured_kspace_of_every_kind(files, tmp_path):
    data, discs = kspace()
    np.save(tmp_path / "four.npy", data)
    np.save(tmp_path / "coil.npy", data[1, 0])
    one = task(tmp_path / "four.npy", "mri", slice=2)
    assert one.y.shape == (1, 4, 24, 20)
    assert one.operator.img_size == (1, 24, 20)
    whole = task(tmp_path / "four.npy", "mri", volume=True)
    assert whole.y.shape == (1, 4, 3, 24, 20)
    assert torch.equal(whole.operator.A_adjoint(whole.y)[:, :, 2], one.operator.A_adjoint(one.y))
    assert task(tmp_path / "coil.npy", "mri").operator.sensitivity_maps.abs().min() == 1
    fast = task(files / "fastmri.h5", "mri", acceleration=2.0, slice=0)
    assert float((fast.y != 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(fast.truth[0, 0].numpy(), abs(discs[0]))


def test_measured_sinograms_have_their_geometry(tmp_path):
    disc = torch.from_numpy(abs(kspace(1, height=24, width=24)[1])).float()[None]
    fan = operators.FanBeamCT(24, 90, 60.0, 90.0, operators.Detector(24, 1.5), 1.0)
    np.save(tmp_path / "fan.npy", fan.A(disc)[0, 0].numpy())
    parallel = operators.ParallelBeamCT(24, 60, operators.Detector(24, 1.0, 2.0))
    np.save(tmp_path / "parallel.npy", parallel.A(disc)[0, 0].numpy())
    for name, exact, options in (
        ("fan", fan, {"fan": (60.0, 90.0, 1.5)}),
        ("parallel", parallel, {"centre": 11.5 - 2}),
    ):
        found = task(tmp_path / f"{name}.npy", "ct", **options)
        torch.testing.assert_close(found.operator.A(disc), exact.A(disc), rtol=1e-4, atol=1e-3)
        few = task(tmp_path / f"{name}.npy", "ct", simulate=False, **options)
        assert few.truth is None


def test_scans_take_their_operator_alone(files):
    with pytest.raises(
        ArgumentError, match=r"--operator: got 'ct', accepted: mri for fastmri\.h5"
    ):
        task(files / "fastmri.h5", "ct")
    with pytest.raises(ArgumentError, match="slice: got 3, accepted: 0 to 2"):
        task(files / "fastmri.h5", "mri", slice=3)
    with pytest.raises(ShapeError, match=r"colour\.png holds"):
        task(files / "colour.png", "deblurring", volume=True)


def test_grey_arrays_stay_grey(files, tmp_path):
    place = build_task(files / "array.npy", "inpainting", InputOptions(simulate=True), 3).source
    colours = torch.tensor([0.1, 0.2, 0.6])[:, None, None].expand(1, 1, 3, 24, 32)
    result = Reconstruction(colours, torch.ones(1, 1), 1, 0.0, "exact", units=place.units)
    (path,) = place.write(result, tmp_path)
    np.testing.assert_allclose(np.load(path), np.full((24, 32), 0.3), rtol=1e-6)


def test_grey_photographs_suit_priors_of_colours(files):
    found = build_task(files / "deep.png", "deblurring", InputOptions(blur_sigma=1.0), channels=3)
    assert found.y.shape == (1, 3, 24, 32)
    assert torch.equal(found.y[:, 0], found.y[:, 2])


PLAIN = {
    "zero-filled": lambda: operators.MultiCoilMRI(torch.ones(8), torch.ones(2, 8, 8) + 0j),
    "FBP": lambda: operators.ParallelBeamCT(8, 6),
    "input": lambda: operators.SuperResolution((1, 8, 8), 2),
    "least squares": lambda: operators.MatrixOperator(torch.ones(3, 64), (1, 8, 8)),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("stacked", [False, True])
def test_plain_images_are_called_what_they_are(name, stacked):
    operator = PLAIN[name]()
    if stacked and name == "least squares":
        pytest.skip("measurements of a matrix are no slices")
    operator = operators.Stacked(operator, 3) if stacked else operator
    size = operator.img_size
    x = torch.rand(1, *size) + (0j if operator.complex_image else 0)
    found, image = plain_image(operator.A(x), operator)
    assert found == name
    assert image.shape == (1, *size)


def test_coil_maps_come_from_the_whole_readout():
    """In a crop that cuts the object its ends, with other maps, are neighbours for the Fourier
    transform."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 48), indexing="ij")
    image = ((y / 0.9) ** 2 + (x / 0.8) ** 2 < 1) * (
        0.7 + 0.3 * torch.cos(9 * y) * torch.sin(7 * x)
    )
    coils = (operators.simulate_sensitivity_maps(4, 64, 48, seed=0) * image)[None]
    task = kspace_task(fft2c(coils), InputOptions(noise_sigma=0.001), rows=32)
    kept = coils[:, :, 16:48]
    maps = task.operator.sensitivity_maps
    missed = kept - maps * (maps.conj() * kept).sum(1, keepdim=True)
    assert missed.norm() < 0.01 * kept.norm()
    assert task.y.shape == kept.shape
