"""RF frames in MetaImage files (.mha, .mhd), the format of ITK's ultrasound modules."""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import checked
from wellposed.datasets.checks import finite, located, reading
from wellposed.errors import FileError
from wellposed.integrity import check_claim

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


@dataclass(frozen=True, eq=False)
class RFFrames:
    r"""Measured RF in [-1, 1]; the stored values are ``rf * scale``.

    Attributes:
        rf: float32 (B, 1, depth, lines).
        scale: largest magnitude in the file, for all frames; there is no offset.
        spacing_mm: distance between samples along a line, and between lines.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from wellposed import datasets
        >>> head = b"DimSize = 256 16\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
        >>> size = Path("rf.mha").write_bytes(head + np.full((16, 256), 300, np.int16).tobytes())
        >>> frames = datasets.load_rf_metaimage("rf.mha")
        >>> float(frames.rf.max()), frames.scale
        (1.0, 300.0)
    """

    rf: Tensor
    scale: float
    spacing_mm: tuple[float, float]


@checked
def load_rf_metaimage(path: str | Path) -> RFFrames:
    r"""Load beamformed RF frames whose fastest axis is the depth, then lines, then frames.

    The format is Kitware's MetaIO, "MetaImage" (itk.org/Wiki/MetaIO/Documentation). Files with two
    or three axes and one component are supported, with the samples in the same or one other file,
    compressed or not.

    Raises:
        FileError: the file is missing, unreadable, truncated, of another kind, not finite, or all
            zero; names the file.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from wellposed import datasets
        >>> head = b"DimSize = 256 16\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
        >>> size = Path("rf.mha").write_bytes(head + np.ones((16, 256), "float32").tobytes())
        >>> datasets.load_rf_metaimage("rf.mha").rf.shape
        torch.Size([1, 1, 256, 16])
    """
    path = located("path", path)
    with reading(path, "MetaImage"):
        header, offset = _header(path)
        source = header["ElementDataFile"]
        local = source == "LOCAL"
        sides, kind = [int(n) for n in header["DimSize"].split()], _dtype(path, header)
        claim = math.prod(sides) * kind.itemsize
        check_claim(path if local else path.parent / source, "the image", claim)
        payload = path.read_bytes()[offset:] if local else (path.parent / source).read_bytes()
        if _says_true(header, "CompressedData"):
            payload = zlib.decompressobj().decompress(payload, max(claim, 1) + 1)
        values = finite(path, source, np.frombuffer(payload, kind))
        if len(sides) not in (2, 3) or min(sides) < 1 or values.size != np.prod(sides):
            raise FileError(
                f"path: {path.name} has DimSize = {header['DimSize']} but {values.size} values, "
                "accepted: equal numbers of values, on two or three axes"
            )
        spacing = header.get("ElementSpacing") or header.get("ElementSize") or "1 1"
        axial, lateral = (float(s) for s in spacing.split()[:2])
    scale = float(np.abs(values.astype(np.float64)).max())
    if scale == 0:
        raise FileError(f"path: {path.name} contains only zeros, accepted: RF data")
    rf = torch.from_numpy((values / scale).astype(np.float32))
    lines, depth = sides[1], sides[0]
    return RFFrames(rf.view(-1, 1, lines, depth).mT.contiguous(), scale, (axial, lateral))


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Return the lines ``key = value``, and the position of the samples."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while "ElementDataFile" not in fields:
            line = file.readline(4096)
            key, equals, value = line.decode("ascii").partition("=")
            if not equals:
                raise FileError(f"path: {path.name} has no MetaImage header")
            fields[key.strip()] = value.strip()
        return fields, file.tell()


def _says_true(header: dict[str, str], *keys: str) -> bool:
    """Tell whether one of the keys is true, which MetaIO reads by its first letter or a 1."""
    return any(header.get(key, "")[:1] in ("T", "t", "1") for key in keys)


def _dtype(path: Path, header: dict[str, str]) -> np.dtype:
    kind = header["ElementType"]
    if kind not in TYPES or header.get("ElementNumberOfChannels", "1") != "1":
        raise FileError(
            f"path: {path.name} has {header.get('ElementNumberOfChannels', '1')} component(s) of "
            f"{kind}, accepted: one of {', '.join(TYPES)}"
        )
    big = _says_true(header, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    return np.dtype(TYPES[kind]).newbyteorder(">" if big else "<")
