"""Pixels of 16 bits, which Pillow cuts to 8 where there are several channels."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from wellposed.errors import FileError

HEAD = 33
"""Bytes of a PNG's signature and header, behind which the colour profile comes."""


def read_png(path: Path) -> np.ndarray:
    """Return the pixels of a PNG as stored, (H, W, 1 to 4), 8 or 16 bits."""
    return np.atleast_3d(imagecodecs.png_decode(path.read_bytes()))


def read_tiff(path: Path, page: int) -> np.ndarray:
    """Return the pixels of a TIFF's page as stored, (H, W, 1 to 4), of 16 bits.

    Raises:
        FileError: other pixels than grey or RGB, with or without alpha, of 9 to 16 bits.
    """
    with tifffile.TiffFile(path) as file:
        found = file.pages[page].aspage()
        meaning, extra = tifffile.PHOTOMETRIC(found.photometric), found.extrasamples
        colours = 3 if meaning == tifffile.PHOTOMETRIC.RGB else 1
        pixels = found.asarray()
        if found.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, -1)
        pixels, bits = np.atleast_3d(pixels), int(np.max(found.bitspersample))
    mixed = tifffile.EXTRASAMPLE.ASSOCALPHA in extra
    known = pixels.shape[-1] == colours + len(extra) <= colours + 1 and pixels.dtype == np.uint16
    if mixed or not known or meaning not in (0, 1, 2):
        what = "premultiplied alpha" if mixed else f"{pixels.dtype}, {meaning.name}"
        raise FileError(f"path: {path.name} holds {what}, accepted: grey or RGB of up to 16 bits")
    if bits < 16:
        pixels = np.round(pixels * (65535 / (2**bits - 1))).astype(np.uint16)
    if meaning == tifffile.PHOTOMETRIC.MINISWHITE:
        pixels = np.concatenate([65535 - pixels[..., :1], pixels[..., 1:]], -1)
    return pixels


def png_bytes(pixels: np.ndarray, profile: bytes | None = None) -> bytes:
    """Return a PNG file of pixels (H, W, 1 to 4), 8 or 16 bits, with an ICC profile."""
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    if pixels.dtype == np.uint8:
        file = BytesIO()
        Image.fromarray(pixels).save(file, "png", icc_profile=profile)
        return file.getvalue()
    plain = bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
    if not profile:
        return plain
    content = b"iCCPICC\0\0" + zlib.compress(profile)
    size, check = len(content) - 4, zlib.crc32(content)
    chunk = struct.pack(">I", size) + content + struct.pack(">I", check)
    return plain[:HEAD] + chunk + plain[HEAD:]
