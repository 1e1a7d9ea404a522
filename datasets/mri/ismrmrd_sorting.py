"""Acquisitions of the ISMRMRD format sorted into k-space."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from wellposed.datasets.mri.encoding import Encoding
from wellposed.errors import FileError


class Frame(NamedTuple):
    """The counters of one image of a scan, each from 0."""

    slice: int
    contrast: int
    phase: int
    repetition: int
    set: int


class Counters(Protocol):
    """Where an acquisition belongs: the counters of `Frame`, and these."""

    kspace_encode_step_1: int
    kspace_encode_step_2: int


class Acquisition(Protocol):
    """What is used of an acquisition as the package ``ismrmrd`` gives it."""

    active_channels: int
    number_of_samples: int
    discard_pre: int
    discard_post: int
    center_sample: int
    sample_time_us: float
    encoding_space_ref: int
    idx: Counters
    data: np.ndarray
    traj: np.ndarray
    position: Sequence[float]
    read_dir: Sequence[float]
    phase_dir: Sequence[float]
    slice_dir: Sequence[float]

    def is_flag_set(self, flag: int, /) -> bool:
        """Tell whether a flag is set."""


def frame_of(acquisition: Acquisition) -> Frame:
    """Return the frame that an acquisition belongs to."""
    return Frame(*(int(getattr(acquisition.idx, name)) for name in Frame._fields))


def grid(
    path: Path, acquisitions: Sequence[Acquisition], frames: Sequence[Frame], encoding: Encoding
) -> tuple[Tensor, Tensor]:
    """Return Cartesian k-space and its mask; lines measured several times are averaged.

    Args:
        path: the file, for errors.
        acquisitions: lines with equal numbers of coils; those of other frames are left out.
        frames: the batch items.
        encoding: matrix sizes and the centre of k-space.

    Returns:
        complex64 (B, coils, D, H, W) and float32 (B, D, H, W), both without D if it is 1.

    Raises:
        FileError: a line is outside the matrix.
    """
    item_of = {frame: item for item, frame in enumerate(frames)}
    coils, size = acquisitions[0].active_channels, encoding.encoded_size
    kspace = np.zeros((len(frames), coils, *size), np.complex64)
    counts = np.zeros((len(frames), *size), np.float32)
    for acquisition in acquisitions:
        if (item := item_of.get(frame_of(acquisition))) is not None:
            partition, rows, line = _place(path, acquisition, encoding)
            kspace[item, :, partition, rows, line] += valid_samples(acquisition)
            counts[item, partition, rows, line] += 1
    kspace /= np.maximum(counts, 1)[:, None]
    mask = (counts > 0).astype(np.float32)
    if size[0] == 1:
        kspace, mask = kspace[:, :, 0], mask[:, 0]
    return torch.from_numpy(kspace), torch.from_numpy(mask)


def grid_calibration(
    path: Path, acquisitions: Sequence[Acquisition], frames: Sequence[Frame], encoding: Encoding
) -> Tensor:
    """Return calibration k-space for every frame, sorted as `grid` does.

    Scanners measure it once for all repetitions or contrasts, or with its own counter. A frame
    therefore gets the calibration of its slice with the same contrast, or else the same phase,
    repetition or set, if there is one; of several it gets the first.

    Raises:
        FileError: a slice has no calibration, or a line is outside the matrix.
    """
    measured = sorted({frame_of(acquisition) for acquisition in acquisitions})
    chosen = [_nearest(path, frame, measured) for frame in frames]
    used = sorted(set(chosen))
    kspace, _ = grid(path, acquisitions, used, encoding)
    return kspace[[used.index(frame) for frame in chosen]]


def _nearest(path: Path, frame: Frame, measured: Sequence[Frame]) -> Frame:
    of_slice = [other for other in measured if other.slice == frame.slice]
    if not of_slice:
        raise FileError(
            f"path: {path.name} has calibration for slices {sorted({m.slice for m in measured})}, "
            f"but none for slice {frame.slice}"
        )
    return min(of_slice, key=lambda other: [a != b for a, b in zip(frame, other, strict=True)])


def stack(
    path: Path, acquisitions: Sequence[Acquisition], frames: Sequence[Frame]
) -> tuple[Tensor, Tensor]:
    """Return readouts along a trajectory, and the trajectory.

    Returns:
        complex64 (B, coils, readouts, samples) and float32 (B, readouts, samples, 2 or 3).

    Raises:
        FileError: no trajectory is stored, or frames or readouts differ in size.
    """
    grouped = [[a for a in acquisitions if frame_of(a) == frame] for frame in frames]
    counts = {(len(group), *valid_places(a).shape) for group in grouped for a in group}
    *_, axes = counts.pop()
    if counts or axes not in (2, 3):
        got = "readouts or frames of several sizes" if counts else f"{axes} coordinates per sample"
        raise FileError(
            f"path: the trajectory in {path.name} has {got}, accepted: equal numbers of samples "
            "and readouts, with 2 or 3 coordinates"
        )
    kspace = np.stack([np.stack([valid_samples(a) for a in g], axis=1) for g in grouped])
    places = np.stack([np.stack([valid_places(a) for a in g]) for g in grouped])
    return torch.from_numpy(kspace), torch.from_numpy(places)


def valid_samples(acquisition: Acquisition) -> np.ndarray:
    """Return the samples (coils, samples) that are not discarded, in the order of k."""
    return _ordered(acquisition, acquisition.data)


def valid_places(acquisition: Acquisition) -> np.ndarray:
    """Return the trajectory (samples, axes) of the same samples."""
    return _ordered(acquisition, acquisition.traj.T).T


def _ordered(acquisition: Acquisition, values: np.ndarray) -> np.ndarray:
    stop = acquisition.number_of_samples - acquisition.discard_post
    kept = values[:, acquisition.discard_pre : stop]
    return kept[:, ::-1] if _is_reversed(acquisition) else kept


def _is_reversed(acquisition: Acquisition) -> bool:
    from ismrmrd import ACQ_IS_REVERSE

    return acquisition.is_flag_set(ACQ_IS_REVERSE)


def _place(path: Path, acquisition: Acquisition, encoding: Encoding) -> tuple[int, slice, int]:
    """Return the partition, the rows and the line of an acquisition in centred k-space."""
    depth, height, width = encoding.encoded_size
    count = acquisition.number_of_samples
    pre, post = acquisition.discard_pre, acquisition.discard_post
    # The header counts samples in the stored order: in reversed readouts, from the other end.
    turned = _is_reversed(acquisition)
    centre = count - 1 - acquisition.center_sample if turned else acquisition.center_sample
    # For complete readouts many converters leave the centre at 0.
    start = (0 if count == height else height // 2 - centre) + (post if turned else pre)
    stop = start + count - pre - post
    partition = acquisition.idx.kspace_encode_step_2 - encoding.centre[0] + depth // 2
    line = acquisition.idx.kspace_encode_step_1 - encoding.centre[1] + width // 2
    inside = 0 <= start < stop <= height and 0 <= partition < depth and 0 <= line < width
    if not inside:
        raise FileError(
            f"path: {path.name} has an acquisition of samples {start} to {stop - 1}, line {line} "
            f"and partition {partition}, outside the {height} x {width} x {depth} of its header"
        )
    return partition, slice(start, stop), line
