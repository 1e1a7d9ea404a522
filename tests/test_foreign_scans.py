"""Geometries of ASTRA and CIL: voxels fall on the detector where the packages say."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wellposed import operators
from wellposed.errors import ArgumentError, ShapeError, WellposedError

pytestmark = pytest.mark.usefixtures("single_thread")

ANGLES = np.array([0.0, 0.4, 1.7, 3.0, 4.4])
H, W, D = 9, 12, 7
PIXEL = 0.5


def volume(planar):
    """As `astra.create_vol_geom` makes it."""
    sides = {"Row": (H, "Y"), "Col": (W, "X")} | ({} if planar else {"Slice": (D, "Z")})
    window = {
        f"Window{end}{axis}": sign * count * PIXEL / 2
        for count, axis in sides.values()
        for end, sign in (("Min", -1), ("Max", 1))
    }
    return {f"Grid{name}Count": count for name, (count, _) in sides.items()} | {"option": window}


def turned(x, y, z=None):
    """Vectors (x, y) turned by the angles, in the frame of ASTRA."""
    cos, sin = np.cos(ANGLES), np.sin(ANGLES)
    parts = [x * cos - y * sin, x * sin + y * cos]
    return np.stack(parts if z is None else [*parts, np.full_like(cos, z)], 1)


SOURCE, DETECTOR, CELL, BINS, ROWS = 20.0, 8.0, 0.2, 101, 81
LINE = {"DetectorWidth": CELL, "DetectorCount": BINS, "ProjectionAngles": ANGLES}
PANEL = {
    "DetectorSpacingX": CELL,
    "DetectorSpacingY": CELL,
    "DetectorRowCount": ROWS,
    "DetectorColCount": BINS,
    "ProjectionAngles": ANGLES,
}
FAR = {"DistanceOriginSource": SOURCE, "DistanceOriginDetector": DETECTOR}
CELLS = {"DetectorRowCount": ROWS, "DetectorColCount": BINS}

# Beam, centre of the detector, u and v of each view, in the frame of ASTRA.
VECTORS = {
    "parallel": (turned(0, 1), turned(0, 0), turned(CELL, 0)),
    "parallel shifted": (turned(0, -2), turned(0.9, 3), turned(CELL, 0)),
    "fan": (turned(0, -SOURCE), turned(0, DETECTOR), turned(CELL, 0)),
    "fan shifted": (turned(0, -SOURCE), turned(1.3, DETECTOR), turned(CELL, 0)),
    "fan reversed": (turned(0, -SOURCE), turned(1.3, DETECTOR), turned(-CELL, 0)),
    "slices": (turned(0, 1, 0), turned(0.3, 0, 0), turned(CELL, 0, 0), turned(0, 0, PIXEL)),
    "slices down": (turned(0, 1, 0), turned(0, 0, 0), turned(CELL, 0, 0), turned(0, 0, -PIXEL)),
    "cone": (
        turned(0, -SOURCE, 0),
        turned(0, DETECTOR, 0),
        turned(CELL, 0, 0),
        turned(0, 0, CELL),
    ),
    "cone shifted": (
        *(turned(0, -SOURCE, 0), turned(0.7, DETECTOR, -0.9)),
        *(turned(CELL, 0, 0), turned(0, 0, CELL)),
    ),
    "cone reversed": (
        *(turned(0, -SOURCE, 0), turned(0.7, DETECTOR, -0.9)),
        *(turned(-CELL, 0, 0), turned(0, 0, -CELL)),
    ),
}
KINDS = {
    "parallel": "parallel_vec",
    "fan": "fanflat_vec",
    "slices": "parallel3d_vec",
    "cone": "cone_vec",
}


def by_vectors(name):
    kind = KINDS[name.split()[0]]
    cells = {"DetectorCount": BINS}
    if kind.startswith(("cone", "parallel3d")):
        cells = CELLS | ({"DetectorRowCount": D} if kind[0] == "p" else {})
    return {"type": kind, "Vectors": np.concatenate(VECTORS[name], 1), **cells}


GEOMETRIES = {
    "parallel": {"type": "parallel", **LINE},
    "fan": {"type": "fanflat", **LINE, **FAR},
    "slices plain": {
        **{"type": "parallel3d", **PANEL, "DetectorSpacingY": PIXEL, "DetectorRowCount": D}
    },
    "cone": {"type": "cone", **PANEL, **FAR},
}
VECTORS["slices plain"] = (*VECTORS["slices down"][:3], turned(0, 0, PIXEL))


def hit(name, place):
    """Return rows and columns where the rays through a point of ASTRA meet the detector."""
    parts = [np.pad(p, ((0, 0), (0, 3 - p.shape[1]))) for p in VECTORS[name]]
    beam, centre, u = parts[:3]
    v = parts[3] if len(parts) == 4 else np.tile([0, 0, 1.0], (len(u), 1))
    ray = beam if name.startswith(("parallel", "slices")) else place - beam
    found = [
        np.linalg.solve(np.stack(m, 1), place - c) for *m, c in zip(u, v, ray, centre, strict=True)
    ]
    across, up = np.stack(found)[:, :2].T
    rows = D if name.startswith("slices") else ROWS
    return up + (rows - 1) / 2, across + (BINS - 1) / 2


def centres(data):
    """Return the mean row and column of each view of data (rows, views, columns)."""
    total = data.sum((0, 2))
    return [
        (data * torch.arange(data.shape[axis]).view(shape)).sum((0, 2)) / total
        for axis, shape in ((0, (-1, 1, 1)), (2, (1, 1, -1)))
    ]


def scan(geometry, planar):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return operators.from_astra(geometry, volume(planar))


CASES = [(name, by_vectors(name)) for name in VECTORS if "plain" not in name]
CASES += list(GEOMETRIES.items())


@pytest.mark.parametrize(("name", "geometry"), CASES, ids=[f"{n} {g['type']}" for n, g in CASES])
@pytest.mark.parametrize("voxel", [(3, 2, 9), (4, 7, 1)])
def test_a_voxel_falls_where_the_vectors_of_astra_say(name, geometry, voxel):
    planar = name.startswith(("parallel", "fan"))
    found = scan(geometry, planar)
    k, i, j = voxel
    image = torch.zeros(1, 1, *([] if planar else [D]), H, W, dtype=torch.float64)
    image[(0, 0, i, j) if planar else (0, 0, k, i, j)] = 1
    data = found.data(found.operator.A(image))
    x, y = (j - (W - 1) / 2) * PIXEL, (i - (H - 1) / 2) * PIXEL
    # Row 0 is on top in 2-D; in 3-D rows are counted along Y.
    place = np.array([x, -y, 0.0]) if planar else np.array([x, y, (k - (D - 1) / 2) * PIXEL])
    rows, columns = hit(name, place)
    row, column = centres(data[None] if planar else data)
    np.testing.assert_allclose(column, columns, atol=0.2)
    if not planar:
        np.testing.assert_allclose(row, rows, atol=0.2)
    again = found.measurement(data.numpy())
    assert torch.equal(found.data(again), data)


def test_line_integrals_have_the_unit_of_the_geometry():
    found = scan(GEOMETRIES["parallel"], True)
    image = torch.rand(1, 1, H, W, dtype=torch.float64)
    mass = found.operator.A(image).sum(-1) * CELL  # the integral of the image over the plane
    assert torch.allclose(mass, image.sum() * PIXEL**2)


def cil(planar, parallel, **changes):
    """As `AcquisitionGeometry` keeps its settings."""
    pad = (lambda *v: np.array(v[:2], float)) if planar else (lambda *v: np.array(v, float))
    detector = SimpleNamespace(
        position=pad(0, 0 if parallel else DETECTOR, 0),
        direction_x=pad(1, 0, 0),
        direction_y=np.array([0.0, 0, 1]),
    )
    axis = SimpleNamespace(position=pad(0, 0, 0), direction=np.array([0.0, 0, 1]))
    system = SimpleNamespace(detector=detector, rotation_axis=axis)
    if parallel:
        system.ray = SimpleNamespace(direction=pad(0, 1, 0))
    else:
        system.source = SimpleNamespace(position=pad(0, -SOURCE, 0))
    rows = 1 if planar else D if parallel else ROWS
    panel = SimpleNamespace(
        num_pixels=(BINS, rows),
        pixel_size=(CELL, PIXEL if parallel else CELL),
        origin="bottom-left",
    )
    degrees = np.rad2deg(ANGLES)
    angles = SimpleNamespace(angle_data=degrees, initial_angle=10.0, angle_unit="degree")
    labels = ("angle", "horizontal") if planar else ("vertical", "angle", "horizontal")
    config = SimpleNamespace(system=system, panel=panel, angles=angles)
    made = SimpleNamespace(
        config=config,
        channels=1,
        geom_type="parallel" if parallel else "cone",
        dimension_labels=labels,
    )
    for name, value in changes.items():
        *path, last = name.split("__")
        part = made
        for step in path:
            part = getattr(part, step)
        setattr(part, last, value)
    return made


def image_geometry(**changes):
    names = {"x": W, "y": H, "z": D}
    made = {f"voxel_num_{n}": count for n, count in names.items()}
    made |= {f"{kind}_{n}": v for n in names for kind, v in (("voxel_size", PIXEL), ("center", 0))}
    return SimpleNamespace(**(made | changes))


def from_cil(geometry, image=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return operators.from_cil(geometry, image)


@pytest.mark.parametrize(
    ("changes", "shift", "columns", "rows"),
    [
        ({}, 0, 1, 1),
        ({"config__panel__origin": "top-right"}, 0, -1, -1),
        ({"config__angles__angle_unit": "radian"}, 0, 1, 1),
        ({"rotated": 1.0}, 1.0, 1, 1),
    ],
)
@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("parallel", [True, False])
def test_a_voxel_of_cil_turns_with_the_object(planar, parallel, changes, shift, columns, rows):
    """CIL turns the point by the angles, and looks along Y with the detector behind."""
    changes = dict(changes)
    if changes.pop("rotated", None):  # the rotation axis is off the central ray
        position = np.array([shift, 0.0] if planar else [shift, 0.0, 0.0])
        changes["config__system__rotation_axis__position"] = position
        if not parallel:  # source and detector move along, so that only the detector is shifted
            changes["config__system__source__position"] = position + (
                np.array([0, -SOURCE] if planar else [0, -SOURCE, 0.0])
            )
    geometry = cil(planar, parallel, **changes)
    degrees = geometry.config.angles.angle_data + geometry.config.angles.initial_angle
    turn = np.deg2rad(degrees) if geometry.config.angles.angle_unit == "degree" else degrees
    found = from_cil(geometry, image_geometry())
    k, i, j = 2, 1, 9
    image = torch.zeros(1, 1, *([] if planar else [D]), H, W, dtype=torch.float64)
    image[(0, 0, i, j) if planar else (0, 0, k, i, j)] = 1
    data = found.data(found.operator.A(image))
    x, y = (j - (W - 1) / 2) * PIXEL, (i - (H - 1) / 2) * PIXEL
    z = 0.0 if planar else (k - (D - 1) / 2) * PIXEL
    across, along = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    size = 1.0 if parallel else (SOURCE + DETECTOR) / (SOURCE + along)
    pitch = PIXEL if parallel else CELL
    column = columns * (size * across + shift) / CELL + (BINS - 1) / 2
    row = rows * size * z / pitch + (geometry.config.panel.num_pixels[1] - 1) / 2
    got_row, got_column = centres(data[None] if planar else data)
    np.testing.assert_allclose(got_column, column, atol=0.2)
    if not planar:
        np.testing.assert_allclose(got_row, row + 0 * column, atol=0.2)


def test_axes_of_cil_are_found_by_their_labels():
    plain = from_cil(cil(False, False), image_geometry())
    other = from_cil(
        cil(False, False, dimension_labels=("angle", "vertical", "horizontal")), image_geometry()
    )
    y = torch.rand(1, *plain.operator.measurement_size)
    assert torch.equal(other.data(y), plain.data(y).transpose(0, 1))
    flat = from_cil(cil(True, True, dimension_labels=("horizontal", "angle")), image_geometry())
    assert flat.data(torch.rand(1, *flat.operator.measurement_size)).shape == (BINS, len(ANGLES))


def test_the_default_image_of_cil_is_as_wide_as_the_detector():
    found = from_cil(cil(False, False))
    assert found.operator.img_size == (1, ROWS, BINS, BINS)
    assert found.operator.geometry.voxel_size == pytest.approx(CELL * SOURCE / (SOURCE + DETECTOR))


def changed(name, **entries):
    return {**GEOMETRIES[name], **entries}


def moved(name, part, change):
    parts = [p.copy() for p in VECTORS[name]]
    parts[part][0] += change
    return {**by_vectors(name), "Vectors": np.concatenate(parts, 1)}


@pytest.mark.parametrize(
    ("geometry", "planar", "error"),
    [
        (3, True, "proj_geom: got 3"),
        ({}, True, "got no 'type'"),
        ({"type": "sparse_matrix"}, True, "proj_geom"),
        ({"type": "parallel"}, True, "got no 'DetectorWidth'"),
        (changed("parallel", DetectorWidth="a"), True, "invalid entries of parallel"),
        (changed("parallel", DetectorWidth=-0.0), True, "detector spacing of 0"),
        (changed("parallel", ProjectionAngles=[]), True, "one or more views"),
        (changed("parallel", ProjectionAngles=[np.nan]), True, "finite vectors"),
        (changed("fan", DistanceOriginSource=1.0), True, "source_distance"),
        (changed("cone", DetectorSpacingY=1.0), False, "cells of 0.2 x 1', accepted: square"),
        (changed("slices plain", DetectorRowCount=D - 1), False, "the 7 slices of 0.5"),
        ({**by_vectors("fan"), "Vectors": np.ones((3, 7))}, True, r"Vectors \(3, 7\)"),
        (moved("fan", 0, [0, -1]), True, "a distance of the source of"),
        (moved("fan", 1, [1, 0]), True, "an? offset of the detector of"),
        (moved("fan", 2, [0.1, 0]), True, "a detector spacing of"),
        (moved("fan", 0, [1, 0]), True, "do not face the detector"),
        (moved("cone", 0, [0, 0, 1]), False, "leave the plane Z = 0"),
        (moved("cone", 2, [0, 0, 0.01]), False, "tilted|spacing"),
        (moved("cone", 3, [0.01, 0, 0]), False, "rows are tilted|spacing"),
        (moved("cone", 1, [0, 0, 1]), False, "a height of the detector of"),
    ],
)
def test_scans_that_no_operator_fits_are_refused(geometry, planar, error):
    with pytest.raises(ArgumentError, match=error):
        scan(geometry, planar)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"GridRowCount": 0}, "positive sizes"),
        ({"option": {"WindowMinX": 0.0, "WindowMaxX": 6.0}}, "a centred volume"),
        ({"option": {"WindowMinX": -5.0, "WindowMaxX": 5.0}}, "square pixels"),
    ],
)
def test_volumes_that_no_operator_fits_are_refused(change, error):
    with pytest.raises(ArgumentError, match=error):
        operators.from_astra(GEOMETRIES["fan"], {**volume(True), "option": {}, **change})
    with pytest.raises(ArgumentError, match="got no 'GridRowCount'"):
        operators.from_astra(GEOMETRIES["fan"], {})


@pytest.mark.parametrize(
    ("changes", "image", "error"),
    [
        ({"channels": 2}, {}, "2 channels"),
        ({"config__angles__angle_unit": "turn"}, {}, "angles in turn"),
        (
            {"config__system__rotation_axis__direction": np.array([0, 0.1, 1])},
            {},
            "tilted rotation",
        ),
        ({"dimension_labels": ("angle", "vertical", "channel")}, {}, "axes"),
        ({"config": None}, {}, "accepted: an AcquisitionGeometry"),
        ({}, {"center_x": 1.0}, "at the rotation axis"),
        ({}, {"voxel_size_x": 1.0}, "cubic voxels"),
    ],
)
def test_objects_of_cil_that_do_not_fit_are_refused(changes, image, error):
    with pytest.raises(ArgumentError, match=error):
        from_cil(cil(False, False, **changes), image_geometry(**image))
    with pytest.raises(WellposedError, match="AcquisitionGeometry"):
        operators.from_cil(3)


def test_data_of_another_size_are_refused():
    found = scan(GEOMETRIES["cone"], False)
    accepted = rf"accepted: \({ROWS}, {len(ANGLES)}, {BINS}\)"
    with pytest.raises(ShapeError, match=accepted):
        found.measurement(np.zeros((len(ANGLES), ROWS, BINS)))
    with pytest.raises(ShapeError, match="y: got shape"):
        found.data(torch.zeros(1, 1, ROWS, len(ANGLES), BINS))


def test_astra_itself_projects_alike():
    astra = pytest.importorskip("astra", exc_type=ImportError)
    image = torch.rand(1, 1, H, W, dtype=torch.float64)
    grid = astra.create_vol_geom(H, W, *(s * n * PIXEL / 2 for n in (W, H) for s in (-1, 1)))
    for name in ("parallel", "fan", "fan shifted", "fan reversed", "parallel shifted"):
        geometry = GEOMETRIES.get(name) or by_vectors(name)
        found = scan(geometry, True)
        kernel = "line_fanflat" if name.startswith("fan") else "line"
        if geometry["type"].endswith("_vec"):
            made = astra.create_proj_geom(geometry["type"], BINS, geometry["Vectors"])
        else:
            far = tuple(FAR.values()) if name == "fan" else ()
            made = astra.create_proj_geom(geometry["type"], CELL, BINS, ANGLES, *far)
        theirs = astra.OpTomo(astra.create_projector(kernel, made, grid)).FP(image[0, 0].numpy())
        ours = found.data(found.operator.A(image)).numpy()
        assert np.linalg.norm(theirs - ours) < 0.15 * np.linalg.norm(theirs)
        assert operators.from_astra(made, grid).operator.geometry == found.operator.geometry
