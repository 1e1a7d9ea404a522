"""Non-Cartesian magnetic resonance imaging: radial, spiral or any other trajectory."""

from collections.abc import Sequence
from math import ceil, pi, prod

import torch
from torch import Tensor

from wellposed.checks import Count, RealTensor, checked
from wellposed.errors import DtypeError, ShapeError, check_finite, require
from wellposed.linalg import conjugate_gradient
from wellposed.operators.base import LinearOperator
from wellposed.operators.mri.cartesian import coil_maps, fftc
from wellposed.operators.mri.nufft import NUFFT, ToeplitzNormal
from wellposed.operators.mri.trajectories import pipe_menon_density

# Interpolation weights per pixel from which two FFTs of twice the sides are faster (measured).
TOEPLITZ_WEIGHTS = 35


class NonCartesianMRI(LinearOperator):
    """Multi-coil MRI at any frequencies: ``y_c = F (S_c x)``, F the `NUFFT`.

    Images are complex (B, 1, H, W) or (B, 1, D, H, W), k-space is complex
    (B, coils, *samples), where the trajectory has shape (*samples, 2 or 3), for example
    (views, readout, 2). At integer frequencies the data are those of `MultiCoilMRI`.

    Args:
        trajectory: frequencies in cycles per field of view, from -N / 2 to N / 2 along an axis
            of N pixels, in the order of the image's axes (rows, columns), as in SigPy.
        sensitivity_maps: complex coil maps (coils, *image) or (B, coils, *image).
        noise_sigma: noise in the real and in the imaginary part of k-space.
        density: volume of k-space per sample, (*samples,), in (cycles per field of view)^d, see
            `ramp_density` and `pipe_menon_density`. It is the weight of `gridding`, with which
            ``A_dagger`` starts; without it the samples are not weighted.
        width: width of the kernel of the `NUFFT` in cells. The error is 1e-6 for 8, 8e-6 for 7
            and 3e-4 for 5; memory grows as ``width^d``, in volumes from 2 kB per sample for 5 to
            8 kB for 8.

    Raises:
        ShapeError, DtypeError, NonFiniteError, ArgumentError: trajectory, maps and density do not
            fit each other, or frequencies are outside the band of the image.

    References:
        Pruessmann, Weiger, Boernert and Boesiger, "Advances in sensitivity encoding with
        arbitrary k-space trajectories", Magnetic Resonance in Medicine 46, 2001,
        doi:10.1002/mrm.1241

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> spokes = operators.radial_trajectory(8, samples=32, image_size=(16, 16))
        >>> maps = operators.simulate_sensitivity_maps(4, 16, 16)
        >>> density = operators.ramp_density(spokes, (16, 16))
        >>> operator = operators.NonCartesianMRI(spokes, maps, noise_sigma=0.01, density=density)
        >>> operator.A(torch.ones(1, 1, 16, 16, dtype=torch.complex64)).shape
        torch.Size([1, 4, 8, 32])
    """

    sensitivity_maps: Tensor
    density: Tensor | None

    _of_items = ("sensitivity_maps",)

    def __init__(
        self,
        trajectory: RealTensor,
        sensitivity_maps: Tensor,
        noise_sigma: float | Tensor = 0.0,
        density: RealTensor | None = None,
        width: Count = 8,
    ) -> None:
        maps = coil_maps(sensitivity_maps, _spatial_axes(trajectory))
        image, samples = tuple(maps.shape[2:]), tuple(trajectory.shape[:-1])
        super().__init__(
            (1, *image),
            (maps.shape[1], *samples),
            noise_sigma,
            complex_image=True,
            complex_measurement=True,
            items=len(maps),
        )
        self.nufft = NUFFT(trajectory, image, width)
        many = prod(samples) * self.nufft.width ** len(image) > TOEPLITZ_WEIGHTS * prod(image)
        self._normal = ToeplitzNormal(self.nufft) if many else None
        self.register_buffer("sensitivity_maps", maps)
        self.register_buffer("density", None if density is None else _volumes(density, samples))
        self.to(maps.device)

    def forward_map(self, x: Tensor) -> Tensor:
        coils: Tensor = self.nufft(self.sensitivity_maps.to(x.dtype) * x)
        return coils.view(len(x), *self.measurement_size)

    def adjoint_map(self, y: Tensor) -> Tensor:
        coil_images = self.nufft.adjoint(y.flatten(2))
        return (self.sensitivity_maps.to(y.dtype).conj() * coil_images).sum(1, keepdim=True)

    def A_adjoint_A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``A^H A x``, by Toeplitz embedding for many samples, as accurate as A."""
        if self._normal is None:
            return self.A_adjoint(self.A(x))
        self._check("x", x, self.img_size, True)
        maps = self.sensitivity_maps.to(x.dtype)
        combined: Tensor = maps.conj() * self._normal(maps * x)
        return combined.sum(1, keepdim=True)

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the least-squares image of smallest norm by conjugate gradients."""
        b = self.A_adjoint(y)
        start = None if self.density is None else self.gridding(y)
        return conjugate_gradient(self.A_adjoint_A, b, start, iterations=100, tolerance=1e-5).x

    def gridding(self, y: Tensor) -> Tensor:
        """Return ``A^H`` of k-space (B, coils, *samples) weighted by the density.

        It approximates the image (B, 1, *image) for a trajectory that covers the band, with its
        density, and maps with unit sum of squares.
        """
        self._check("y", y, self.measurement_size, True)
        weighted = y if self.density is None else self.density.to(y.real.dtype) * y
        return self.adjoint_map(weighted)


class OffResonanceMRI(NonCartesianMRI):
    r"""Non-Cartesian MRI in an inhomogeneous field, by time segmentation.

    .. math:: y_c(t) = \sum_r S_c(r) x(r) e^{-2 \pi i f(r) t} e^{-2 \pi i k(t) r}, \qquad
        e^{-2 \pi i f t} \approx \sum_l b_l(t) e^{-2 \pi i f \tau_l}

    with times tau_l evenly spaced over the readout and b_l by least squares over the range of f.
    The error is about 1e-3 or less. There is one `NUFFT` per segment; the number of segments is
    the range of the field times the readout duration, in cycles, plus six.

    Args:
        trajectory: as in `NonCartesianMRI`.
        sensitivity_maps: as in `NonCartesianMRI`.
        field_map: offset f from the scanner's frequency in Hz, real, of the shape of the image.
        times: times of the samples in seconds from the excitation or the echo, real, broadcastable
            to the trajectory's shape without its last axis, for example (readout,).
        noise_sigma: as in `NonCartesianMRI`.
        density: as in `NonCartesianMRI`.
        width: as in `NonCartesianMRI`.

    Raises:
        The errors of `NonCartesianMRI`, also for ``field_map`` and ``times``.

    References:
        Sutton, Noll and Fessler, "Fast, iterative image reconstruction for MRI in the presence
        of field inhomogeneities", IEEE Transactions on Medical Imaging 22, 2003,
        doi:10.1109/TMI.2002.808360

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> spirals = operators.spiral_trajectory(2, samples=200, image_size=(16, 16))
        >>> maps = operators.simulate_sensitivity_maps(4, 16, 16)
        >>> field, times = torch.full((16, 16), 50.0), torch.linspace(0.002, 0.012, 200)  # Hz, s
        >>> operator = operators.OffResonanceMRI(spirals, maps, field, times)
        >>> operator.A(torch.ones(1, 1, 16, 16, dtype=torch.complex64)).shape
        torch.Size([1, 4, 2, 200])
    """

    _weights: Tensor
    _phases: Tensor

    def __init__(
        self,
        trajectory: RealTensor,
        sensitivity_maps: Tensor,
        field_map: RealTensor,
        times: RealTensor,
        noise_sigma: float | Tensor = 0.0,
        density: RealTensor | None = None,
        width: Count = 8,
    ) -> None:
        super().__init__(trajectory, sensitivity_maps, noise_sigma, density, width)
        self._normal = None  # in a varying field A^H A is not a convolution
        field = _of_shape("field_map", field_map, self.img_size[1:])
        times = _real_values("times", times, self.measurement_size[1:])
        weights, phases = _time_segments(field, times)
        self.register_buffer("_weights", weights)
        self.register_buffer("_phases", phases)
        self.to(self.sensitivity_maps.device)

    def forward_map(self, x: Tensor) -> Tensor:
        segments = zip(self._weights.to(x.dtype), self._phases.to(x.dtype), strict=True)
        parts = [w * NonCartesianMRI.forward_map(self, p * x) for w, p in segments]
        return torch.stack(parts).sum(0)

    def adjoint_map(self, y: Tensor) -> Tensor:
        segments = zip(self._weights.to(y.dtype), self._phases.to(y.dtype), strict=True)
        parts = [p.conj() * NonCartesianMRI.adjoint_map(self, w.conj() * y) for w, p in segments]
        return torch.stack(parts).sum(0)


@checked
def gridded_kspace(
    kspace: Tensor,
    trajectory: RealTensor,
    image_size: Sequence[Count],
    density: RealTensor | None = None,
) -> Tensor:
    """Return Cartesian k-space (..., coils, *image), resampled from a trajectory.

    It serves for calibration with `espirit`. It is accurate where the trajectory is dense, such as
    radial and spiral trajectories at the centre.

    Args:
        kspace: complex (..., coils, *samples).
        trajectory: cycles per field of view, (*samples, d).
        image_size: the d sides of the image.
        density: as in `NonCartesianMRI`; `pipe_menon_density` by default.

    Raises:
        ShapeError, DtypeError: ``kspace`` is not complex or does not end in the trajectory's axes;
            also the errors of `NUFFT` for ``trajectory`` and ``image_size``.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> spokes = operators.radial_trajectory(30, samples=32, image_size=(16, 16))
        >>> nufft = operators.NUFFT(spokes, image_size=(16, 16))
        >>> kspace = nufft(torch.ones(4, 16, 16, dtype=torch.complex64)).view(4, 30, 32)
        >>> operators.gridded_kspace(kspace, spokes, (16, 16)).shape  # of 4 coils
        torch.Size([4, 16, 16])
    """
    nufft = NUFFT(trajectory, image_size)
    samples = tuple(trajectory.shape[:-1])
    if not isinstance(kspace, Tensor) or not kspace.is_complex():
        kind = getattr(kspace, "dtype", type(kspace).__name__)
        raise DtypeError(f"kspace: got {kind}, accepted: a complex tensor")
    if kspace.ndim <= len(samples) or tuple(kspace.shape[-len(samples) :]) != samples:
        raise ShapeError(
            f"kspace: got shape {tuple(kspace.shape)}, accepted: (..., coils, "
            f"{', '.join(map(str, samples))}) as for the trajectory"
        )
    density = pipe_menon_density(trajectory, image_size) if density is None else density
    weights = _of_shape("density", density, samples).to(kspace.device, kspace.real.dtype)
    images = nufft.adjoint((weights * kspace).flatten(-len(samples)))
    return fftc(images, tuple(range(-len(nufft.image_size), 0)))


def _time_segments(field: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors b_l(t), (L, *samples), and exp(-2 pi i f tau_l), (L, *image)."""
    cycles = float((field.max() - field.min()) * (times.max() - times.min()))
    segments = ceil(1.2 * cycles) + 6
    nodes = torch.linspace(float(times.min()), float(times.max()), segments, dtype=torch.float64)
    count = 4 * segments
    offsets = torch.linspace(float(field.min()), float(field.max()), count, dtype=torch.float64)
    distinct, place = times.flatten().unique(return_inverse=True)
    basis = _turns(offsets[:, None] * nodes)
    # Nodes that the field cannot resolve make the basis singular to rounding.
    fit = torch.linalg.pinv(basis, rtol=1e-9) @ _turns(offsets[:, None] * distinct)
    weights = fit[:, place].view(segments, *times.shape)
    phases = _turns(nodes.view(-1, *[1] * field.ndim) * field)
    return weights.to(torch.complex64), phases.to(torch.complex64)


def _turns(cycles: Tensor) -> Tensor:
    """Return ``exp(-2 pi i cycles)``."""
    return torch.polar(torch.ones_like(cycles), -2 * pi * cycles)


def _spatial_axes(trajectory: Tensor) -> int:
    axes = trajectory.shape[-1] if isinstance(trajectory, Tensor) and trajectory.ndim > 1 else 0
    if axes not in (2, 3):
        got = tuple(getattr(trajectory, "shape", ())) or type(trajectory).__name__
        raise ShapeError(f"trajectory: got {got}, accepted: a tensor (*samples, 2 or 3)")
    return axes


def _real_values(name: str, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return finite real values expanded to ``shape``, float64, on the CPU."""
    values = check_finite(name, torch.as_tensor(values)).detach().cpu()
    if values.is_complex():
        raise DtypeError(f"{name}: got {values.dtype}, accepted: a real tensor")
    fits = values.ndim <= len(shape)
    pairs = zip(values.shape[::-1], shape[::-1], strict=False)
    if not fits or any(n not in (1, side) for n, side in pairs):
        raise ShapeError(f"{name}: got shape {tuple(values.shape)}, accepted: {tuple(shape)}")
    return values.double().expand(shape)


def _volumes(density: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the volumes of k-space of samples, in float32."""
    volumes = _of_shape("density", density, shape).float()
    require(bool((volumes >= 0).all()), "density", "negative values", "volumes of at least 0")
    return volumes


def _of_shape(name: str, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return finite real values of a shape, float64, on the CPU."""
    if tuple(values.shape) != tuple(shape):
        raise ShapeError(f"{name}: got shape {tuple(values.shape)}, accepted: {tuple(shape)}")
    return _real_values(name, values, shape)
