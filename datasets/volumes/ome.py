"""Metadata of OME-NGFF images: axes, voxel sizes and places, in stores of either version."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wellposed.errors import FileError

MILLIMETRES = {
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "millimeter": 1.0,
    "centimeter": 10.0,
    "meter": 1e3,
}
"""Units of length of OME-NGFF in mm."""

OLD_AXES = "tczyx"
"""Axes of images before version 0.3, which do not name them."""


@dataclass(frozen=True)
class Scene:
    """Axes and place of an image.

    Attributes:
        axes: all axes of the stored array by name, e.g. "czyx".
        space: those of the volume, "zyx" or "yx".
        spacing: size of a voxel along them in mm.
        origin: place of the first voxel along them in mm.
    """

    axes: str
    space: str
    spacing: tuple[float, ...]
    origin: tuple[float, ...]

    def moved(self, axis: int, count: int) -> "Scene":
        """Return the scene of an image without its first ``count`` rows along an axis."""
        origin = list(self.origin)
        origin[axis] += count * self.spacing[axis]
        return replace(self, origin=tuple(origin))


def scene_of(path: Path, group: Any) -> tuple[str, Scene] | None:
    """Return the path of the full resolution in a group, and its scene; None without metadata.

    Raises:
        FileError: the metadata are damaged, or the last axes are not z, y and x.
    """
    held = dict(group.attrs)
    held = held.get("ome", held)  # of version 0.5, in a store of version 3
    if not isinstance(held, Mapping) or not held.get("multiscales"):
        return None
    try:
        image = held["multiscales"][0]
        level = image["datasets"][0]
        name = str(level["path"])
        axes, units = _axes(image.get("axes"), len(group[name].shape))
        spacing, origin = _transformed(len(axes), level, image)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise FileError(
            f"path: the multiscales of {path.name} are damaged: {error!r}, accepted: OME-NGFF"
        ) from error
    space = axes.lstrip("tc")
    if space not in ("zyx", "yx"):
        raise FileError(f"path: {path.name} has the axes {axes!r}, accepted: [t][c][z]yx")
    scale = np.array([MILLIMETRES.get(unit, 0.0) for unit in units])[-len(space) :]
    spacing, origin = (scale * values[-len(space) :] for values in (spacing, origin))
    if not (np.isfinite(spacing).all() and (spacing > 0).all() and np.isfinite(origin).all()):
        raise FileError(
            f"path: {path.name} has voxels of {spacing.tolist()} mm, with the units {units}; "
            f"accepted: positive sizes in {', '.join(MILLIMETRES)}"
        )
    return name, Scene(axes, space, tuple(spacing.tolist()), tuple(origin.tolist()))


def _axes(stored: Sequence[object] | None, count: int) -> tuple[str, list[str]]:
    """Return the names of the axes, and their units; lengths without one are in mm."""
    named = OLD_AXES[-count:] if stored is None else stored
    full = [each if isinstance(each, Mapping) else {"name": each} for each in named]
    axes = "".join(str(each["name"]) for each in full)
    return axes, [str(each.get("unit", "millimeter")) for each in full]


def _transformed(count: int, *parts: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and translation after the transformations of the level, then of the image."""
    scale, translation = np.ones(count), np.zeros(count)
    for part in parts:
        for step in part.get("coordinateTransformations") or ():
            if step["type"] == "scale":
                by = np.asarray(step["scale"], float).reshape(count)
                scale, translation = scale * by, translation * by
            elif step["type"] == "translation":
                translation = translation + np.asarray(step["translation"], float).reshape(count)
            elif step["type"] != "identity":
                raise ValueError(f"a transformation {step['type']!r}")
    return scale, translation


def described(scene: Scene, name: str, version: int) -> dict[str, Any]:
    """Return the attributes of a group that holds one level "0" of a volume.

    Args:
        scene: the place of the volume.
        name: of the image.
        version: that of zarr, 2 or 3, which OME-NGFF 0.4 and 0.5 are written in.
    """
    steps = [
        {"type": "scale", "scale": list(scene.spacing)},
        {"type": "translation", "translation": list(scene.origin)},
    ]
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in scene.space]
    level = {"path": "0", "coordinateTransformations": steps}
    image = {"name": name, "axes": axes, "datasets": [level]}
    if version == 2:
        return {"multiscales": [{"version": "0.4", **image}]}
    return {"ome": {"version": "0.5", "multiscales": [image]}}
