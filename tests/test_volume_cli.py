"""Whole volumes on the command line: what is taken, measured, kept and written where."""

import csv
import logging

import nibabel
import numpy as np
import pytest
import torch
from tests.helpers import forks, run, run_in_processes, tiny_prior

from wellposed import Reconstruction
from wellposed.cli.inputs import AIR_TO_BONE, task_input
from wellposed.cli.settings import InputOptions
from wellposed.cli.tasks import build_task
from wellposed.datasets.reading import Image
from wellposed.errors import ArgumentError, ShapeError
from wellposed.figures import write_planes
from wellposed.metrics import plane_quality, psnr, slices_across, ssim

pytestmark = pytest.mark.usefixtures("single_thread")

AFFINE = np.array([[0, 2, 0, 5], [-1.5, 0, 0, 7], [0, 0, 3, -20], [0, 0, 0, 1.0]])
D, H, W = 6, 16, 20


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A CT volume in HU, an MRI one in arbitrary units, and priors for them."""
    folder = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(0)
    hounsfield = rng.uniform(-1000, 1000, (W, H, D)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(hounsfield, AFFINE), folder / "ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image(abs(hounsfield), AFFINE), folder / "mri.nii")
    np.save(folder / "volume.npy", rng.random((D, H, W)).astype(np.float32))
    np.save(folder / "image.npy", rng.random((H, W)).astype(np.float32))
    tiny_prior(folder / "grey", 1, False)
    tiny_prior(folder / "complex", 2, True)
    return folder


def arguments(files, out, name, operator, *more):
    prior = files / ("complex" if operator == "mri" else "grey")
    words = ["reconstruct", files / name, "--operator", operator, "--simulate", "--prior", prior]
    return [*words, "--out", out, *more]


def reconstruct(files, out, name, operator, *more):
    return run(*arguments(files, out, name, operator, *more))


SHORT = ["--set", "steps=2"]
JOBS = {
    "ct mbir": ("ct.nii.gz", "ct", ["--solver", "diffusion-mbir", "--views", 4]),
    "ct limited angle": ("ct.nii.gz", "ct", ["--solver", "dds3d", "--arc", 120]),
    "ct by slices": ("ct.nii.gz", "ct", ["--solver", "dds", "--volume"]),
    "ct across the middle axis": ("ct.nii.gz", "ct", ["--solver", "dds3d", "--axis", 1]),
    "mri": ("mri.nii", "mri", ["--solver", "dds3d", "--coils", 2, "--acceleration", 2]),
    "deblurring": ("mri.nii", "deblurring", ["--solver", "dds3d", "--blur-sigma", 1]),
    "inpainting": ("mri.nii", "inpainting", ["--solver", "dds", "--volume"]),
}


@pytest.mark.parametrize(("name", "operator", "more"), JOBS.values(), ids=JOBS.keys())
def test_volumes_are_written_where_the_input_lies(files, tmp_path, name, operator, more):
    done = reconstruct(files, tmp_path, name, operator, *more, *SHORT, "--num-samples", 2)
    assert done.exit_code == 0, done.output
    result = Reconstruction.load(tmp_path / "reconstruction.h5")
    stored = nibabel.load(files / name)
    low, high = AIR_TO_BONE if operator == "ct" else (0, np.quantile(stored.get_fdata(), 0.998))
    axis = more[-1] if "--axis" in more else 0
    for kind, values in (
        ("mean", low + (high - low) * result.mean),
        ("std", (high - low) * result.std),
    ):
        written = nibabel.load(tmp_path / f"{kind}.nii.gz")
        np.testing.assert_array_equal(written.affine, stored.affine)
        assert written.shape == stored.shape
        expected = values.abs()[0, 0] if values.is_complex() else values[0, 0]
        expected = np.moveaxis(expected.numpy(), 0, axis).T
        np.testing.assert_allclose(written.get_fdata(), expected, rtol=2e-3, atol=0.5)
    assert (tmp_path / "reconstruction.png").stat().st_size > 1000
    assert "PSNR, SSIM across D" in done.output


def test_a_slab_lies_where_it_was_cut(files, tmp_path):
    more = ["--solver", "dds3d", "--slices", "2:5", "--num-samples", 1, *SHORT]
    done = reconstruct(files, tmp_path, "ct.nii.gz", "ct", *more)
    assert done.exit_code == 0, done.output
    written = nibabel.load(tmp_path / "mean.nii.gz")
    assert written.shape == (W, H, 3)
    np.testing.assert_allclose(written.affine @ [1, 2, 0, 1], AFFINE @ [1, 2, 2, 1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_perfect_result_is_the_input(files, tmp_path, axis):
    """Cut, turned and scaled for the solver, then written: the file's numbers in its place."""
    options = InputOptions(simulate=True, volume=True, axis=axis, slices=(1, 4))
    task = build_task(files / "ct.nii.gz", "ct", options)
    result = Reconstruction(task.truth[None], torch.ones(1, 1), 1, 0.0, "exact")
    (mean,) = task.source.write(task.finished(result), tmp_path)  # one sample has no std
    stored = np.moveaxis(nibabel.load(files / "ct.nii.gz").get_fdata(), 2 - axis, 0)
    found = nibabel.load(mean)
    np.testing.assert_allclose(
        np.moveaxis(found.get_fdata(), 2 - axis, 0), stored[1:4], rtol=0, atol=1e-3
    )
    np.testing.assert_allclose(found.affine[:3, 3], AFFINE[:3, 3] + AFFINE[:3, 2 - axis])
    assert not (tmp_path / "std.nii.gz").exists()


def test_each_slice_is_measured_as_by_itself(files):
    for operator in ("ct", "mri", "deblurring", "inpainting"):
        name = "mri.nii" if operator == "mri" else "ct.nii.gz"
        window = (-1000.0, 1000.0)
        own = {"mri": dict(coils=2, acceleration=2.0), "ct": dict(views=5, arc=90.0)}
        shared = dict(simulate=True, window=window, **own.get(operator, {}))
        whole = build_task(files / name, operator, InputOptions(volume=True, **shared))
        for index in (0, D - 1):
            one = build_task(files / name, operator, InputOptions(slice=index, **shared))
            torch.testing.assert_close(whole.truth[:, :, index], one.truth)
            torch.testing.assert_close(whole.y[:, :, index], one.y, atol=1e-5, rtol=1e-4)


def test_views_cover_the_arc(files):
    options = InputOptions(simulate=True, views=8, arc=120.0)
    task = build_task(files / "image.npy", "ct", options)
    np.testing.assert_allclose(task.operator.angles, np.arange(8) * 15.0)


def test_nothing_is_written_as_nifti_without_a_place(files, tmp_path):
    more = ["--solver", "dds3d", "--num-samples", 1, *SHORT]
    done = reconstruct(files, tmp_path, "volume.npy", "ct", *more)
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {
        "reconstruction.h5",
        "reconstruction.png",
        "mean.npy",
        "record.json",
        "results.csv",
    }


def test_one_sample_of_volumes_by_default_and_its_plan_in_the_log(files, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "wellposed"):
        done = reconstruct(files, tmp_path, "volume.npy", "ct", "--solver", "dds3d", *SHORT)
    assert done.exit_code == 0, done.output
    assert len(Reconstruction.load(tmp_path / "reconstruction.h5").samples) == 1
    assert any("needed on cpu" in message for message in caplog.messages)


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(files, tmp_path, monkeypatch):
    """The second call takes up the third step, and the volume is that of an unbroken run."""
    from wellposed.solvers import DDS3D

    more = ["--solver", "dds3d", "--set", "steps=4", "--num-samples", 1]
    kept = ["--checkpoint", tmp_path / "kept", "--checkpoint-every", 1]
    done = reconstruct(files, tmp_path / "unbroken", "volume.npy", "ct", *more)
    assert done.exit_code == 0, done.output
    calls, step = [], DDS3D.step

    def dying(self, state, t, s, problem, noise):
        calls.append(t)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(self, state, t, s, problem, noise)

    monkeypatch.setattr(DDS3D, "step", dying)
    assert reconstruct(files, tmp_path / "o", "volume.npy", "ct", *more, *kept).exit_code != 0
    done = reconstruct(files, tmp_path / "o", "volume.npy", "ct", *more, *kept)
    assert done.exit_code == 0, done.output
    assert len(calls) == 3 + 2
    ours, theirs = (
        Reconstruction.load(tmp_path / folder / "reconstruction.h5").samples
        for folder in ("o", "unbroken")
    )
    assert torch.equal(ours, theirs)


@forks
def test_processes_share_the_slices(files, tmp_path):
    """And process 0 writes the volume that one process gives."""
    more = ["--solver", "dds3d", "--set", "steps=2", "--views", 4]
    done = reconstruct(files, tmp_path / "one", "volume.npy", "ct", *more)
    assert done.exit_code == 0, done.output
    words = arguments(files, tmp_path / "two", "volume.npy", "ct", *more)
    assert run_in_processes(2, words, tmp_path / "told").count("wrote") == 1
    one, two = (Reconstruction.load(tmp_path / n / "reconstruction.h5") for n in ("one", "two"))
    torch.testing.assert_close(two.samples, one.samples, rtol=0, atol=1e-5)


@forks
@pytest.mark.slow
def test_processes_deal_out_images(files, tmp_path):
    """Each is what it is alone, whichever process does it."""
    rng, more = np.random.default_rng(1), ["--solver", "dds", "--views", 4, *SHORT]
    for n in range(3):
        np.save(tmp_path / f"slice-{n}.npy", rng.random((H, W)).astype(np.float32))
    alone = reconstruct(files, tmp_path / "alone", tmp_path / "slice-2.npy", "ct", *more)
    assert alone.exit_code == 0, alone.output
    others = [str(tmp_path / f"slice-{n}.npy") for n in (1, 2)]
    words = arguments(files, tmp_path / "out", tmp_path / "slice-0.npy", "ct", *others, *more)
    assert run_in_processes(2, words, tmp_path / "told").count("wrote") == 3
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["results.csv", "slice-0", "slice-1", "slice-2"]
    found = Reconstruction.load(tmp_path / "out" / "slice-2" / "reconstruction.h5")
    expected = Reconstruction.load(tmp_path / "alone" / "reconstruction.h5")
    assert torch.equal(found.samples, expected.samples)


@pytest.mark.slow
def test_a_file_that_fails_keeps_none_from_being_done(files, tmp_path):
    (tmp_path / "broken.npy").write_bytes(b"no array")
    others = [files / "image.npy", files / "volume.npy"]
    more = ["--solver", "dds", "--views", 4, *SHORT, "--checkpoint", tmp_path / "run"]
    done = reconstruct(files, tmp_path / "out", tmp_path / "broken.npy", "ct", *others, *more)
    assert done.exit_code == 1
    assert "1 of 3 failed:" in done.output
    assert "broken.npy: path: cannot read" in done.output
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["image", "volume"]
    with (tmp_path / "out" / "results.csv").open() as file:
        status = {row["input"]: row["status"] for row in csv.DictReader(file)}
    assert status.pop("broken.npy").startswith("failed: path: cannot read")
    assert status == {"image.npy": "done", "volume.npy": "done"}
    again = reconstruct(files, tmp_path / "out", tmp_path / "broken.npy", "ct", *others, *more)
    assert again.exit_code == 1
    assert again.output.count("finished already") == 2
    more[more.index("--views") + 1] = 5
    other = reconstruct(files, tmp_path / "out", "image.npy", "ct", files / "volume.npy", *more)
    assert "finished already" not in other.output


def test_processes_without_an_image_have_nothing_to_do(files, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    done = reconstruct(files, tmp_path, "image.npy", "ct", "--solver", "dds")
    assert done.exit_code == 0
    assert "part 2 of 2: 0 of 1 inputs" in done.output


DDS3D = ["--solver", "dds3d"]
MISTAKES = {
    "slices out of the volume": ("volume.npy", [*DDS3D, "--slices", "2:9"], "slices: got '2:9'"),
    "no slice": ("volume.npy", [*DDS3D, "--slices", "3:3"], "accepted: A:B with 0 <= A < B <= 6"),
    "no range": ("volume.npy", [*DDS3D, "--slices", "3"], "--slices: got '3', accepted: A:B"),
    "an image": ("image.npy", DDS3D, "accepted as a volume: real values (D, H, W)"),
    "axis": ("volume.npy", [*DDS3D, "--axis", 3], "axis: got 3, accepted: 0 to 2"),
    "one and all": ("volume.npy", ["--volume", "--slice", 2], "--slice: got a slice"),
    "one slice for a solver of volumes": ("volume.npy", [*DDS3D, "--slice", 2], "Stacked"),
    "arc": ("volume.npy", [*DDS3D, "--arc", 0], "arc: got 0"),
    "views": ("volume.npy", [*DDS3D, "--views", 0], "views: got 0, accepted: an integer"),
    "window": ("volume.npy", [*DDS3D, "--window", 3, 2], "window: got (3.0, 2.0)"),
    "every": (
        "volume.npy",
        [*DDS3D, "--checkpoint", "kept", "--checkpoint-every", 0],
        "got 0",
    ),
}


@pytest.mark.parametrize(("name", "more", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_give_one_clear_line(files, tmp_path, monkeypatch, name, more, words):
    monkeypatch.chdir(tmp_path)
    done = reconstruct(files, tmp_path / "nowhere", name, "ct", *more)
    assert done.exit_code == 2, done.output
    line = next(line for line in done.output.splitlines() if line.startswith("error: "))
    assert words in line
    assert not (tmp_path / "nowhere").exists()


def test_operators_that_change_the_grid_take_no_volumes(files, tmp_path):
    done = reconstruct(files, tmp_path, "volume.npy", "super-resolution", "--volume")
    assert done.exit_code == 2
    assert "operator: got 'super-resolution', accepted: inpainting" in done.output


def test_windows(tmp_path):
    """HU of CT, percentiles of the rest, nothing where values fit or are measured."""

    def window(low, high, operator, **options):
        values = np.linspace(low, high, 2001, dtype=np.float32).reshape(3, 667)
        image = Image(tmp_path / "image.npy", "array", values, tmp_path / "image.npy")
        units = task_input(image, operator, InputOptions(**options)).units
        return units.offset, units.offset + units.scale

    assert window(-1000, 400, "ct", simulate=True) == (-1000, 1000)
    assert window(0, 400, "ct", simulate=True)[1] == pytest.approx(0.998 * 400, rel=1e-3)
    assert window(-1000, 400, "deblurring", simulate=True)[0] == 0
    assert window(0, 1, "ct", simulate=True) == (0, 1)
    assert window(-3, 5, "deblurring") == (0, 1)
    assert window(-3, 5, "deblurring", simulate=True, window=(-1.0, 2.0)) == (-1, 2)
    assert window(-3, 5, "deblurring", window=(-1.0, 2.0)) == (-1, 2)


def test_plane_quality_is_the_mean_over_slices():
    rng = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 1, 18, 13, 15, generator=rng)
    noisy = truth + 0.1 * torch.randn(truth.shape, generator=rng)
    for axis in (2, 3, 4):
        pairs = [(noisy.select(axis, k), truth.select(axis, k)) for k in range(truth.shape[axis])]
        decibels, similarity = plane_quality(noisy, truth, axis)
        assert decibels == pytest.approx(np.mean([float(psnr(*pair)) for pair in pairs]))
        assert similarity == pytest.approx(np.mean([float(ssim(*pair)) for pair in pairs]))
    _, similarity = plane_quality(noisy[:, :, :10], truth[:, :, :10], 3)
    assert np.isnan(similarity)
    with pytest.raises(ShapeError, match="estimate"):
        plane_quality(noisy[:, :, :9], truth, 2)
    with pytest.raises(ShapeError, match="volume"):
        slices_across(truth[0], 2)
    with pytest.raises(ArgumentError, match="axis"):
        slices_across(truth, 1)


def test_three_planes_keep_the_proportions_of_voxels(tmp_path):
    from PIL import Image

    volume = torch.rand(1, 1, 5, 20, 10)
    write_planes(tmp_path / "flat.png", {"a": volume, "b": volume})
    write_planes(tmp_path / "deep.png", {"a": volume, "b": volume}, spacing=(4, 1, 1))
    flat, deep = (Image.open(tmp_path / f"{name}.png").size for name in ("flat", "deep"))
    assert flat[0] == deep[0]
    # Across D 20 : 10, across H 5 : 10 or 20 : 10, across W 5 : 20 or 20 : 20.
    margin = 0.35 * 96
    assert (deep[1] - margin) / (flat[1] - margin) == pytest.approx(5 / 2.75, rel=0.03)
