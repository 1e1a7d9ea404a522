"""Element signals of an array after a plane wave, and their beamforming."""

import math
from dataclasses import dataclass
from math import pi
from pathlib import Path

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from wellposed.checks import checked
from wellposed.datasets.checks import finite, located
from wellposed.datasets.ct.mat import read_mat
from wellposed.errors import FileError, ShapeError, require


@dataclass(frozen=True, eq=False)
class ChannelData:
    """Signals received by the elements of a linear array after an unsteered plane wave.

    Attributes:
        rf: float32 (B, samples, elements).
        sampling_mhz: sampling frequency; it may be below twice the highest frequency for a narrow
            band (band-pass sampling).
        centre_mhz: centre frequency.
        pitch_mm: distance between elements.
        start_us: time of the first sample after transmission.
        speed: speed of sound, mm / us.
        time_to_peak_us: from when an element fires to the peak of the pulse that arrives, the
            delays of transmission and reception together.

    Example:
        >>> import torch
        >>> from wellposed import datasets
        >>> rf = torch.randn(1, 512, 16)
        >>> data = datasets.ChannelData(
        ...     rf, sampling_mhz=20.0, centre_mhz=5.0, pitch_mm=0.3, start_us=0.0, speed=1.54
        ... )
        >>> datasets.delay_and_sum(data, torch.arange(5.0, 15.0, 0.07)).shape
        torch.Size([1, 1, 143, 16])
    """

    rf: Tensor
    sampling_mhz: float
    centre_mhz: float
    pitch_mm: float
    start_us: float
    speed: float
    time_to_peak_us: float = 0.0


@checked
def load_pymust(path: str | Path, time_to_peak_us: float = 0.0) -> ChannelData:
    """Load a MATLAB file of MUST or PyMUST: ``RF`` (samples, elements, frames) and ``param``.

    Garcia, "Make the most of MUST, an open-source Matlab UltraSound Toolbox", 2021,
    doi 10.1109/IUS52206.2021.9593605.

    Args:
        path: the file.
        time_to_peak_us: see `ChannelData`; 0 of MUST's simulations, whose pulses are centred.

    Raises:
        ArgumentError: a time that is not finite.
        FileError: the file is missing or unreadable, a value is missing or not finite, or the wave
            was steered or focused; names the file.

    Example:
        >>> import numpy as np, scipy.io
        >>> from wellposed import datasets
        >>> param = {"fs": 20e6, "fc": 5e6, "pitch": 3e-4, "c": 1540.0, "t0": 0.0}
        >>> scipy.io.savemat("plane.mat", {"RF": np.ones((512, 16)), "param": param})
        >>> data = datasets.load_pymust("plane.mat")
        >>> data.rf.shape, data.sampling_mhz
        (torch.Size([1, 512, 16]), 20.0)
    """
    finite_time = math.isfinite(time_to_peak_us)
    require(finite_time, "time_to_peak_us", time_to_peak_us, "a finite number")
    path = located("path", path)
    content = read_mat(path)
    param, rf = content.get("param"), content.get("RF")
    needed = {"fs", "fc", "pitch", "c"}
    if not isinstance(param, dict) or not needed <= param.keys():
        raise FileError(f"path: {path.name} has no 'param' with {', '.join(sorted(needed))}")
    if not isinstance(rf, np.ndarray) or rf.ndim not in (2, 3) or rf.dtype.kind not in "iuf":
        raise FileError(f"path: {path.name} has no real 'RF' (samples, elements, frames)")
    if np.any(param.get("TXdelay", 0)):
        raise FileError(
            f"path: {path.name} has a nonzero TXdelay, accepted: an unsteered plane wave"
        )
    frames = np.atleast_3d(finite(path, "RF", rf).astype(np.float32)).transpose(2, 0, 1)
    values = {name: _number(path, name, param[name]) for name in sorted(needed)}
    start = _number(path, "t0", param.get("t0", 0), least=-math.inf)
    return ChannelData(
        torch.from_numpy(np.ascontiguousarray(frames)),
        values["fs"] / 1e6,
        values["fc"] / 1e6,
        values["pitch"] * 1e3,
        start * 1e6,
        values["c"] / 1e3,
        time_to_peak_us,
    )


def _number(path: Path, name: str, value: object, least: float = 0.0) -> float:
    """Return a finite number of ``param`` above ``least``."""
    number = np.asarray(value)
    single = number.size == 1 and number.dtype.kind in "iuf"
    if not (single and least < float(number.item()) < math.inf):
        raise FileError(
            f"path: {path.name} has param.{name} = {value!r}, accepted: a finite number"
            f"{' above 0' if least == 0 else ''}"
        )
    return float(number.item())


@checked
def delay_and_sum(data: ChannelData, depths_mm: Tensor, f_number: float = 1.5) -> Tensor:
    """Return beamformed RF frames with a line below each element.

    ``rf(z, x) = Re sum_i w_i s_i(t_i) / sum_i w_i`` at the times
    ``t_i = (z + sqrt(z^2 + (x - x_i)^2)) / c + time_to_peak``, with the analytic signal s_i,
    interpolated at baseband, and a Hann window w over the aperture ``z / f_number``.

    Args:
        data: the signals.
        depths_mm: depths (D,) of the samples, positive; at most a quarter wavelength apart to
            avoid aliasing of the RF.
        f_number: depth over aperture.

    Returns:
        (B, 1, D, elements), in the dtype and on the device of ``data.rf``.

    Raises:
        ArgumentError, ShapeError: the depths are not a vector of positive numbers, or
            ``f_number`` is not positive.

    Example:
        >>> import torch
        >>> from wellposed import datasets
        >>> rf = torch.randn(2, 512, 16)  # 2 frames of 16 elements
        >>> data = datasets.ChannelData(
        ...     rf, sampling_mhz=20.0, centre_mhz=5.0, pitch_mm=0.3, start_us=0.0, speed=1.54
        ... )
        >>> datasets.delay_and_sum(data, torch.arange(5.0, 15.0, 0.07), f_number=2.0).shape
        torch.Size([2, 1, 143, 16])
    """
    require(f_number > 0, "f_number", f_number, "a positive number")
    if depths_mm.ndim != 1 or len(depths_mm) == 0:
        raise ShapeError(f"depths_mm: got shape {tuple(depths_mm.shape)}, accepted: (D,)")
    positive = bool((depths_mm > 0).all())
    require(positive, "depths_mm", "a depth of 0 or less", "positive numbers")
    z = depths_mm.to(data.rf)
    base, elements = baseband(data), data.rf.shape[-1]
    total = torch.zeros(len(base), len(z), elements, dtype=base.dtype, device=base.device)
    weights = total.real.new_zeros(len(z), elements)
    reach = min(elements - 1, int(float(z.max()) / (2 * f_number * data.pitch_mm)))
    for offset in range(-reach, reach + 1):
        across = offset * data.pitch_mm
        relative = (across * f_number / z).abs().clamp(max=0.5)
        weight = (pi * relative).cos().square()[:, None]
        path = z + torch.hypot(z, torch.full_like(z, across))
        time = path / data.speed + data.time_to_peak_us
        # All lines have the same delay: an element's signal serves the line ``offset`` beside it.
        lines = slice(max(0, -offset), elements - max(0, offset))
        sources = slice(max(0, offset), elements - max(0, -offset))
        total[..., lines] += weight * _at(base[..., sources], time, data)
        weights[:, lines] += weight
    return (total.real / weights)[:, None]


def baseband(data: ChannelData) -> Tensor:
    """Return the complex signals shifted by the centre frequency to 0, (B, samples, elements).

    The signals are continued by zeros, see `envelope`.
    """
    samples = data.rf.shape[1]
    padded = next_fast_len(2 * samples)
    time = data.start_us + torch.arange(samples, device=data.rf.device) / data.sampling_mhz
    mixed = data.rf * _carrier(-time, data)[:, None]
    frequency = torch.fft.fftfreq(padded, 1 / data.sampling_mhz, device=data.rf.device)
    # The other half of the spectrum is now at twice the centre frequency, or aliased.
    keep = frequency.abs() < min(data.centre_mhz, data.sampling_mhz / 4)
    spectrum = torch.fft.fft(mixed, n=padded, dim=1) * keep[:, None]
    baseband: Tensor = torch.fft.ifft(spectrum, dim=1)[:, :samples]
    return 2 * baseband


def _carrier(time: Tensor, data: ChannelData) -> Tensor:
    """Return ``exp(2 pi i f t)``, with the phase computed in double precision."""
    phase = 2 * pi * data.centre_mhz * time.double()
    return torch.polar(torch.ones_like(phase), phase).to(data.rf.dtype.to_complex())


def _at(base: Tensor, time: Tensor, data: ChannelData) -> Tensor:
    """Return analytic signals (B, D, elements) at times (D,); 0 outside the recording."""
    place = (time - data.start_us) * data.sampling_mhz
    low = place.floor()
    recorded = (low >= 0) & (low < base.shape[1] - 1)
    index = torch.where(recorded, low, 0).long()
    values = torch.lerp(base[:, index], base[:, index + 1], (place - low).to(base.dtype)[:, None])
    return values * (recorded * _carrier(time, data))[:, None]
