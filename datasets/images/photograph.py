"""Reading and writing of photographs: upright, with depth, alpha and colour profile."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from wellposed.datasets.checks import require_file
from wellposed.datasets.images.deep_pixels import png_bytes, read_png, read_tiff
from wellposed.errors import FileError, require
from wellposed.integrity import check_claim
from wellposed.writing import make_folder, replacing

PHOTOGRAPH_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

GREY, COLOUR = ("1", "L", "LA", "La"), ("RGB", "RGBX", "RGBA", "RGBa", "P", "PA", "CMYK", "YCbCr")
DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's names for kinds of pixels that can be read."""

BITS, WIDTH, HEIGHT, ORIENTATION = 258, 256, 257, 274
"""Tags of TIFF; the last one is also in the EXIF data of other files."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """The content of a photograph file, turned upright.

    Attributes:
        pixels: float32 (H, W, C) in [0, 1]: 1 grey or 3 colour channels.
        alpha: opacity (H, W) in [0, 1], ``None`` if the file has none.
        depth: bits of each channel, 8 or 16.
        profile: ICC profile of the colours, ``None`` if the file has none.

    Example:
        >>> import numpy as np
        >>> from wellposed import datasets
        >>> photo = datasets.Photograph(np.random.rand(32, 40, 3).astype("float32"), depth=16)
        >>> datasets.write_photograph(photo, "photo.png")
        >>> datasets.read_photograph("photo.png").depth
        16
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    depth: int = 8
    profile: bytes | None = None

    @property
    def opaque(self) -> bool:
        """Whether no pixel is transparent."""
        return self.alpha is None or bool((self.alpha == 1).all())

    def like(self, pixels: np.ndarray) -> "Photograph":
        """Return other pixels in the form of this photograph: its channels, alpha and profile.

        Args:
            pixels: (H, W, 1 or 3) in [0, 1], of the size of this photograph or a multiple, to
                which alpha is interpolated.
        """
        if self.pixels.shape[-1] == 1:
            pixels = pixels.mean(-1, keepdims=True)
        alpha, size = self.alpha, pixels.shape[1::-1]
        if alpha is not None and alpha.shape != pixels.shape[:2]:
            alpha = np.asarray(Image.fromarray(alpha).resize(size, Image.Resampling.BICUBIC))
        return replace(self, pixels=pixels, alpha=alpha)


def read_photograph(path: str | Path, page: int | None = None) -> Photograph:
    """Read a PNG, JPEG, BMP, TIFF or WebP file, turned upright by its EXIF orientation.

    The 16 bits of pixels are kept, and grey pixels remain grey; palettes and CMYK become RGB.

    Args:
        path: the file.
        page: index of the page of a TIFF, or frame of an animation; needed if there are several.

    Raises:
        FileError: the file is missing, damaged or not a photograph, or has 32-bit pixels.
        ArgumentError: no such page, or several pages and no choice.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from wellposed import datasets
        >>> Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save("photo.jpg")
        >>> datasets.read_photograph("photo.jpg").pixels.shape
        (32, 40, 3)
    """
    path = require_file("path", path)
    with _opened(path) as image:
        _choose_page(image, path, page)
        height, width, channels, depth = _kind(image, path)
        check_claim(path, "the image", height * width * channels * depth // 8)
        profile = image.info.get("icc_profile")
        if image.mode == "CMYK":  # the profile of inks does not apply to RGB
            pixels, profile = np.asarray(_from_inks(image, profile)), None
            pixels = _upright(pixels, _orientation(image))
        else:
            pixels = _deep(image, path) if depth == 16 else _shallow(image)
    unit = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    colours = 1 if unit.shape[-1] < 3 else 3
    alpha = unit[..., colours] if unit.shape[-1] > colours else None
    return Photograph(unit[..., :colours], alpha, depth, profile)


def photograph_shape(path: str | Path) -> tuple[int, int, int]:
    """Return (H, W, C) of a photograph, see `read_photograph`, without decoding its pixels.

    Raises:
        FileError: the file is missing, not an image, or has pixels that are refused.
        ArgumentError: the file has several pages.
    """
    path = require_file("path", path)
    with _opened(path) as image:
        _choose_page(image, path, None)
        height, width, channels, _ = _kind(image, path)
    return height, width, channels


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile]:
    try:
        with Image.open(path) as image:
            yield image
    except FileError:
        raise
    except (OSError, SyntaxError, RuntimeError, TypeError, ValueError, LookupError) as error:
        if type(error).__module__.startswith("wellposed"):
            raise
        raise FileError(f"path: cannot read {str(path)!r} as an image: {error}") from error
    except (Image.DecompressionBombError, EOFError, MemoryError) as error:
        raise FileError(f"path: cannot read {str(path)!r} as an image: {error}") from error


def _choose_page(image: ImageFile, path: Path, page: int | None) -> None:
    # Phones append a second picture, for depth or brightness, to the photograph (MPO).
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if page is None and pages > 1:
        require(False, "page", None, f"0 to {pages - 1}, as {path.name} has {pages} pages")
    require(0 <= (page or 0) < pages, "page", page, f"0 to {pages - 1} in {path.name}")
    if page:
        image.seek(page)


def _kind(image: ImageFile, path: Path) -> tuple[int, int, int, int]:
    """Return (H, W, C, bits) of the upright image, without decoding its pixels."""
    mode, raw = image.mode, _stored_as(image)
    if mode not in (*GREY, *COLOUR, *DEEP_GREY):
        what = "32-bit pixels" if mode in ("I", "F") else f"pixels of kind {mode!r}"
        raise FileError(
            f"path: {path.name} has {what}, accepted: 8 or 16 bits, grey or RGB; use NPY for more"
        )
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else ImageFileDirectory_v2()
    width, height = tags.get(WIDTH, image.size[0]), tags.get(HEIGHT, image.size[1])
    if tags.get(ORIENTATION, _orientation(image)) >= 5:
        width, height = height, width
    # Pillow reads 16-bit grey with alpha as RGB.
    grey = mode in (*GREY, *DEEP_GREY) or raw.startswith("LA")
    deep = ";16" in raw or ";12" in raw or max(tags.get(BITS, (8,))) > 8 or mode in DEEP_GREY
    return height, width, 1 if grey else 3, 16 if deep else 8


def _stored_as(image: ImageFile) -> str:
    """Return Pillow's name for the pixels in the file, which may differ from the image mode."""
    arguments = image.tile[0][3] if getattr(image, "tile", None) else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _orientation(image: ImageFile) -> int:
    """Return the EXIF orientation; 1 for TIFF, which Pillow turns when reading."""
    return 1 if image.format == "TIFF" else int(image.getexif().get(ORIENTATION, 1))


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels (H, W, ...) turned upright from an EXIF orientation of 1 to 8."""
    if orientation not in range(2, 9):
        return pixels
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(turned[:: -1 if rows else 1, :: -1 if columns else 1])


def _from_inks(image: ImageFile, profile: bytes | None) -> Image.Image:
    from io import BytesIO

    from PIL import ImageCms

    if profile is None:
        return image.convert("RGB")
    inks, screen = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, inks, screen, outputMode="RGB")
    assert converted is not None  # as it is not in place
    return converted


def _shallow(image: ImageFile) -> np.ndarray:
    """Return 8-bit pixels (H, W, 1 to 4)."""
    clear = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    kind = "L" if image.mode in GREY else "RGB"
    kind += "A" if clear else ""
    orientation = _orientation(image)
    pixels = np.asarray(image if image.mode == kind else image.convert(kind))
    return np.atleast_3d(_upright(pixels, orientation))


def _deep(image: ImageFile, path: Path) -> np.ndarray:
    """Return 16-bit pixels (H, W, 1 to 4), of which Pillow reads only grey ones."""
    if isinstance(image, TiffImageFile):
        return _upright(read_tiff(path, image.tell()), image.tag_v2.get(ORIENTATION, 1))
    pixels, key = read_png(path), image.info.get("transparency")
    if key is not None and pixels.shape[-1] in (1, 3):  # one colour means transparent
        seen = (pixels != np.asarray(key, np.uint16)).any(-1, keepdims=True)
        pixels = np.concatenate([pixels, seen.astype(np.uint16) * 65535], -1)
    return _upright(pixels, _orientation(image))


def write_photograph(photograph: Photograph, path: str | Path) -> None:
    """Write a photograph as PNG in its depth and channels, with its alpha and ICC profile.

    Values outside [0, 1] are clipped; an existing file is replaced atomically.

    Raises:
        FileError: the file cannot be written.

    Example:
        >>> import numpy as np
        >>> from wellposed import datasets
        >>> photo = datasets.Photograph(np.random.rand(32, 40, 1).astype("float32"))  # grey
        >>> datasets.write_photograph(photo, "photo.png")
    """
    path = Path(path)
    planes = photograph.pixels, photograph.alpha
    stack = np.concatenate([np.atleast_3d(plane) for plane in planes if plane is not None], -1)
    most = 2**photograph.depth - 1
    values = (stack.clip(0, 1) * most).round().astype(np.uint16 if most > 255 else np.uint8)
    make_folder(path.parent)
    with replacing(path, "folder") as part:
        part.write_bytes(png_bytes(values, photograph.profile))
