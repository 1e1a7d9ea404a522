"""Photographs come upright, and leave with the depth, channels, alpha and profile they have."""

import logging

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from tests.helpers import anchored
from torch import nn
from typer.testing import CliRunner

from wellposed import errors
from wellposed.cli import restore as command
from wellposed.cli.app import app
from wellposed.datasets import (
    Photograph,
    load_images,
    read_array,
    read_photograph,
    write_photograph,
)
from wellposed.datasets.images.image_files import Collection
from wellposed.datasets.images.mask import read_mask
from wellposed.datasets.images.photograph import photograph_shape
from wellposed.datasets.images.reading import Reading
from wellposed.priors import resshift

pytestmark = pytest.mark.usefixtures("single_thread")

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def values(*shape, deep=False, seed=0):
    most = 65536 if deep else 256
    drawn = np.random.default_rng(seed).integers(0, most, shape)
    return drawn.astype(np.uint16 if deep else np.uint8)


def write(path, pixels, orientation=None):
    """By other hands than ours: Pillow, tifffile, and for deep PNGs our writer."""
    if path.suffix == ".tif":
        tags = [] if orientation is None else [(274, "H", 1, orientation, True)]
        kind = "rgb" if pixels.ndim == 3 else "minisblack"
        tifffile.imwrite(path, pixels, photometric=kind, extratags=tags)
        return path
    exif = Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    options = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(
    ("suffix", "shape", "deep"),
    [
        (".png", (5, 7, 3), False),
        (".png", (5, 7), True),
        (".webp", (5, 7, 3), False),
        (".tif", (5, 7, 3), False),
        (".tif", (5, 7), True),
        (".tif", (5, 7, 3), True),
    ],
)
def test_photographs_are_turned_upright(orientation, suffix, shape, deep, tmp_path):
    stored = values(*shape, deep=deep)
    path = write(tmp_path / f"a{suffix}", stored, orientation)
    upright = TURNED[orientation](stored) / (65535 if deep else 255)
    np.testing.assert_allclose(read_array(path), upright, rtol=1e-6)
    assert photograph_shape(path) == (*upright.shape, 1)[:3]
    assert Collection([path]).array(0).shape == Collection([path]).shapes[0]


def test_a_jpeg_is_turned_too(tmp_path):
    path = write(tmp_path / "a.jpg", values(64, 96, 3), 6)
    assert read_array(path).shape == (96, 64, 3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("profile", [None, PROFILE])
def test_what_is_written_is_read_again(channels, deep, profile, tmp_path):
    stored = values(6, 9, channels, deep=deep)
    unit = stored.astype(np.float32) / np.float32(65535 if deep else 255)
    colours = 1 if channels < 3 else 3
    alpha = unit[..., colours] if channels > colours else None
    depth = 16 if deep else 8
    path = tmp_path / "a.png"
    write_photograph(Photograph(unit[..., :colours], alpha, depth, profile), path)
    found = read_photograph(path)
    np.testing.assert_array_equal(found.pixels, unit[..., :colours])
    assert (found.alpha is None) == (alpha is None)
    assert alpha is None or np.array_equal(found.alpha, alpha)
    assert (found.depth, found.profile) == (depth, profile)
    assert photograph_shape(path) == (6, 9, colours)
    with Image.open(path) as image:  # for other readers, too
        image.load()
        assert image.size == (9, 6)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_thousand_levels_of_deep_colours(tmp_path):
    ramp = np.repeat(np.linspace(20000, 21000, 1000).astype(np.uint16)[None], 4, 0)
    rgb = np.stack([ramp] * 3, -1)
    write_photograph(Photograph(rgb / np.float32(65535), depth=16), tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", rgb, photometric="rgb")
    tifffile.imwrite(tmp_path / "c.tif", rgb, photometric="rgb", compression="zlib")
    tifffile.imwrite(tmp_path / "f.tif", rgb, photometric="rgb", compression="lzw")
    planes = np.moveaxis(rgb, -1, 0)
    tifffile.imwrite(tmp_path / "d.tif", planes, photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "e.tif", rgb, photometric="rgb", byteorder=">")
    for path in tmp_path.iterdir():
        np.testing.assert_allclose(read_array(path), rgb / 65535, atol=1e-7)
        assert read_photograph(path).depth == 16


def test_deep_grey_of_every_kind(tmp_path):
    grey = values(5, 7, deep=True)
    tifffile.imwrite(tmp_path / "big.tif", grey, photometric="minisblack", byteorder=">")
    tifffile.imwrite(tmp_path / "white.tif", 65535 - grey, photometric="miniswhite")
    for path in tmp_path.iterdir():
        np.testing.assert_allclose(read_array(path), grey / 65535, atol=1e-7)


def test_inks_become_colours_without_their_profile(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    found = read_photograph(tmp_path / "a.tif")
    np.testing.assert_allclose(found.pixels[0, 0], (1, 0, 0), atol=0.01)
    assert found.profile is None


def test_pages_are_chosen(tmp_path):
    pages = values(3, 5, 7, deep=True)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    frames = [Image.fromarray(values(5, 7, 3, seed=n)) for n in range(2)]
    frames[0].save(tmp_path / "b.webp", save_all=True, append_images=frames[1:])
    deep = values(2, 5, 7, 3, deep=True)
    tifffile.imwrite(tmp_path / "c.tif", deep, photometric="rgb")
    for name, count in (("a.tif", 3), ("b.webp", 2), ("c.tif", 2)):
        for read in (read_array, photograph_shape, lambda path: Collection([path])):
            with pytest.raises(errors.ArgumentError, match=f"0 to {count - 1}, as {name} has"):
                read(tmp_path / name)
        with pytest.raises(errors.ArgumentError, match=f"page: got {count}"):
            read_array(tmp_path / name, page=count)
    np.testing.assert_allclose(read_array(tmp_path / "a.tif", page=1), pages[1] / 65535, atol=1e-7)
    np.testing.assert_allclose(read_array(tmp_path / "c.tif", page=1), deep[1] / 65535, atol=1e-7)


def clear(path, hole=(slice(1, 3), slice(2, 5)), colour=255, **options):
    pixels = np.full((6, 8, 4), 255, np.uint8)
    pixels[..., :3] = colour
    pixels[hole] = 0
    Image.fromarray(pixels).save(path, **options)
    return path


def test_transparent_pixels_are_refused_where_alpha_cannot_be_kept(tmp_path):
    path, palette = clear(tmp_path / "a.png"), tmp_path / "p.png"
    Image.fromarray(values(6, 8)).convert("P").save(palette, transparency=0)
    for file in (path, palette):
        for read in (read_array, lambda p: Collection([p]).array(0)):
            with pytest.raises(errors.FileError, match=rf"{file.name} has transparent pixels"):
                read(file)
    opaque = clear(tmp_path / "opaque.png", hole=(slice(0), slice(0)))
    assert read_array(opaque).shape == (6, 8, 3)
    assert not read_photograph(path).opaque


# Masks


def test_holes_of_a_mask_are_unknown(tmp_path):
    known = read_mask(clear(tmp_path / "a.png"))
    assert known.shape == (6, 8)
    assert (~known).sum() == 6
    assert not known[1:3, 2:5].any()
    painted = np.full((6, 8), 255, np.uint8)
    painted[2, 3] = 0
    Image.fromarray(painted).save(tmp_path / "b.png")
    assert (~read_mask(tmp_path / "b.png")).sum() == 1
    np.save(tmp_path / "c.npy", painted > 0)
    assert (~read_mask(tmp_path / "c.npy")).sum() == 1
    exif = Image.Exif()
    exif[274] = 6
    turned = clear(tmp_path / "d.png", exif=exif)
    np.testing.assert_array_equal(read_mask(turned), np.rot90(known, -1))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((6, 8), 255), "100% is known"),
        (np.eye(6), r"0% is known"),  # ones of 255
        (values(6, 8), "% of it grey"),
    ],
)
def test_masks_that_mask_nothing_are_named(mask, message, tmp_path):
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(errors.ArgumentError, match=rf"mask: got 'm\.png.*{message}"):
        read_mask(tmp_path / "m.png")


def test_black_and_transparent_pixels_are_not_mixed(tmp_path):
    with pytest.raises(errors.ArgumentError, match="with transparent and with black pixels"):
        read_mask(clear(tmp_path / "m.png", colour=0))


# Folders


def test_what_is_not_read_is_listed(tmp_path, caplog):
    for n in range(6):
        Image.fromarray(values(8, 8, 3)).save(tmp_path / f"{n}.webp")
    Image.fromarray(values(8, 8, 3)).save(tmp_path / "a.png")
    for name in ("b.heic", "c.txt", ".hidden"):
        (tmp_path / name).write_text("")
    with caplog.at_level(logging.WARNING):
        assert len(Collection([tmp_path]).files) == 7
        assert len(load_images(tmp_path).files) == 7
    assert caplog.text.count("skipped b.heic, c.txt, of unknown") == 2
    assert "hidden" not in caplog.text


def test_broken_files_are_skipped_if_asked_for(tmp_path, caplog):
    for name in ("a", "b", "c"):
        Image.fromarray(values(16, 16, 3)).save(tmp_path / f"{name}.png")
    path = tmp_path / "b.png"
    path.write_bytes(path.read_bytes()[:300])
    clear(tmp_path / "d.png")
    with caplog.at_level(logging.WARNING):
        found = Collection([tmp_path], skip_broken=True)
    assert [file.name for file in found.files] == ["a.png", "c.png"]
    assert "b.png" in caplog.text and "d.png has transparent pixels" in caplog.text
    with pytest.raises(errors.FileError, match=r"cannot read .*b\.png"):
        Collection([tmp_path]).array(1)


def test_grey_among_colours_is_converted_if_asked_for(tmp_path):
    Image.fromarray(values(8, 8)).save(tmp_path / "a.png")
    Image.fromarray(values(8, 8, 3)).save(tmp_path / "b.png")
    with pytest.raises(errors.ShapeError, match=r"b\.png has 3 channels.*set channels to 1 or 3"):
        Collection([tmp_path])
    colours = Collection([tmp_path], Reading(channels=3))
    assert [colours.array(n).shape[-1] for n in (0, 1)] == [3, 3]
    grey = Collection([tmp_path], Reading(channels=1))
    assert [shape[-1] for shape in grey.shapes] == [1, 1]
    with Image.open(tmp_path / "b.png") as image:
        expected = np.asarray(image.convert("L")) / 255
    np.testing.assert_allclose(grey.array(1)[0, ..., 0], expected, atol=1 / 255)


# `wellposed restore`


class _Anchor(nn.Module):
    """Finds nothing to restore."""

    def forward(self, seen, label, degraded):
        return degraded.anchor


@pytest.fixture
def restored(monkeypatch, tmp_path):
    """Restore files by the identity, or by enlarging."""

    def run(*files, upsample=1, **options):
        restorer = anchored(_Anchor(), resshift(4), upsample=upsample)
        monkeypatch.setattr(command, "load_prior", lambda *_: restorer)
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        arguments = ["restore", *map(str, files), "--prior", "p", "--out", str(tmp_path / "out")]
        done = CliRunner().invoke(app, [*arguments, "--steps", "2", *words])
        return done, tmp_path / "out"

    return run


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("deep", [False, True])
def test_results_are_of_the_kind_of_the_input(channels, deep, restored, tmp_path):
    stored = values(8, 12, channels, deep=deep) / np.float32(65535 if deep else 255)
    colours = 1 if channels < 3 else 3
    alpha = stored[..., colours] if channels > colours else None
    came = Photograph(stored[..., :colours], alpha, 16 if deep else 8, PROFILE)
    write_photograph(came, tmp_path / "a.png")
    done, out = restored(tmp_path / "a.png")
    assert done.exit_code == 0, done.output
    left = read_photograph(out / "a.png")
    np.testing.assert_allclose(left.pixels, came.pixels, atol=1e-5 if deep else 1e-6)
    assert (left.depth, left.profile) == (came.depth, came.profile)
    assert alpha is None or np.array_equal(left.alpha, alpha)


def test_alpha_grows_with_the_image(restored, tmp_path):
    done, out = restored(clear(tmp_path / "a.png"), upsample=2)
    assert done.exit_code == 0, done.output
    left = read_photograph(out / "a.png")
    assert left.pixels.shape == (12, 16, 3)
    assert left.alpha[3:5, 6:8].max() < 0.1 and left.alpha[8:, 12:].min() == 1


def test_photographs_taken_upright_are_restored_upright(restored, tmp_path):
    path = write(tmp_path / "a.jpg", values(64, 96, 3), 6)
    done, out = restored(path)
    assert done.exit_code == 0, done.output
    with Image.open(out / "a.png") as image:
        assert image.size == (64, 96)
        assert image.getexif().get(274, 1) == 1


def test_one_bad_file_does_not_stop_the_others(restored, tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.jpg", values(16, 16, 3))
    path = tmp_path / "b.jpg"
    path.write_bytes(path.read_bytes()[:200])
    done, out = restored(tmp_path)
    assert done.exit_code == 1
    assert "b.jpg: path: cannot read" in done.output
    assert (out / "a.png").is_file() and (out / "c.png").is_file()
    assert (out / "results.csv").read_text().count("\n") == 4


def test_the_truth_is_opaque(restored, tmp_path):
    done, _ = restored(clear(tmp_path / "a.png"), truth=tmp_path / "a.png")
    assert done.exit_code == 2
    assert "--truth: got 'a.png, with transparent pixels', accepted: opaque ones" in done.output
