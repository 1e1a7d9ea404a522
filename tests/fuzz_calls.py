"""A good call of every public name, and which odd values of its arguments are rightly accepted."""

import inspect

import torch

from wellposed import inversion, operators, priors, solvers
from wellposed.parallel.slabs import Slabs
from wellposed.solvers.catalogue import named_solvers

WINGS = (inversion, operators, priors, solvers)

MASK = torch.ones(8, 8)
MAPS = torch.ones(2, 8, 8, dtype=torch.complex64)
KSPACE = torch.randn(2, 24, 24, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
SPOKES = operators.radial_trajectory(4, 8, (8, 8))
GREY, SIZE = (1, 8, 8), (8, 8)
NOISING = operators.Denoising(GREY, 0.1)
LINEAR = priors.Tabulated.linear()
GAUSSIAN = priors.GaussianPrior(0.5, 0.1)
SLABS = Slabs(2, 1, lambda first, end: (FRAMES, NOISING))
NETWORK = torch.nn.Conv2d(1, 1, 1)
FRAMES = torch.rand(1, 1, 8, 8)
BY_CLASS = priors.NetworkPrior(NETWORK, LINEAR, channels=1, num_classes=2)


def double(x):
    return 2 * x


def shrink(x, sigma):
    return x / (1 + sigma)


NEEDED = {
    "BlindBlur": {"image_size": GREY, "kernel_size": 3},
    "BlindCT": {"ct": operators.ParallelBeamCT(8, 6), "kernel_size": 3},
    "BlindMRI": {"mask": MASK, "coils": 2},
    "Blur": {"kernel": torch.ones(3, 3) / 9, "image_size": GREY},
    "Companded": {"operator": NOISING},
    "CompressedSensing": {"image_size": GREY, "ratio": 0.5, "block": 4},
    "ConeBeamCT": {
        "volume_size": (2, 6, 6),
        "angles": 3,
        "source_distance": 30.0,
        "detector_distance": 50.0,
    },
    "Decomposable": {"image_size": GREY, "measurement_size": GREY},
    "Channels": {"image_size": GREY, "kept": [0]},
    "Denoising": {"image_size": GREY},
    "DynamicMRI": {"mask": torch.ones(3, 8, 8), "sensitivity_maps": MAPS},
    "FanBeamCT": {
        "image_size": 8,
        "angles": 4,
        "source_distance": 30.0,
        "detector_distance": 50.0,
    },
    "FunctionOperator": {"f": double, "image_size": GREY},
    "Inpainting": {"mask": MASK},
    "JPEG": {"image_size": (3, 16, 16)},
    "EachItem": {"operators": [NOISING, NOISING]},
    "Joint": {"operators": [NOISING, NOISING]},
    "LinearOperator": {"image_size": GREY, "measurement_size": GREY},
    "MatrixOperator": {"matrix": torch.eye(64), "image_size": GREY},
    "MultiCoilMRI": {"mask": MASK, "sensitivity_maps": MAPS},
    "MultiCoilMRI3D": {
        "mask": torch.ones(4, 8, 8),
        "sensitivity_maps": torch.ones(2, 4, 8, 8, dtype=torch.complex64),
    },
    "NUFFT": {"trajectory": SPOKES, "image_size": SIZE},
    "NonCartesianMRI": {"trajectory": SPOKES, "sensitivity_maps": MAPS},
    "NonlinearOperator": {"image_size": GREY, "measurement_size": GREY},
    "OffResonanceMRI": {
        "trajectory": SPOKES,
        "sensitivity_maps": MAPS,
        "field_map": torch.zeros(8, 8),
        "times": torch.linspace(0, 1e-2, SPOKES.shape[1]),
    },
    "PaddedBlur": {"kernel": torch.ones(3, 3) / 9, "image_size": GREY},
    "Panel": {"rows": 4, "columns": 8, "cell_size": 1.0},
    "ParallelBeamCT": {"image_size": 8, "angles": 4},
    "PhaseRetrieval": {"image_size": GREY},
    "Separable": {"rows": torch.eye(8), "columns": torch.eye(8), "channels": 1},
    "SeparableBlur": {"kernel": torch.ones(3, 3) / 9, "image_size": GREY},
    "SingleCoilMRI": {"mask": MASK},
    "Stacked": {"operator": NOISING, "slices": 2},
    "SuperResolution": {"image_size": GREY, "factor": 2},
    "WalshHadamard": {"image_size": GREY, "ratio": 0.5},
    "Whitened": {"operator": NOISING, "std": torch.ones(1, 1, 8, 8)},
    "box_mask": {"height": 8, "width": 8, "box": (2, 2)},
    "check_operator": {"operator": NOISING},
    "compress_coils": {"kspace": KSPACE, "coils": 1},
    "equispaced_lines": {"width": 32, "acceleration": 4},
    "espirit": {"kspace": KSPACE, "calibration": 12},
    "find_calibration": {"kspace": KSPACE},
    "fastmri_lines": {
        "kind": "random",
        "width": 32,
        "acceleration": 4,
        "center_fraction": 0.1,
        "seed": 0,
    },
    "from_astra": {
        "proj_geom": {
            "type": "fanflat",
            "DetectorWidth": 1.0,
            "DetectorCount": 24,
            "ProjectionAngles": [0.0, 1.0],
            "DistanceOriginSource": 30.0,
            "DistanceOriginDetector": 20.0,
        },
        "vol_geom": {"GridRowCount": 8, "GridColCount": 8},
    },
    "from_hounsfield": {"hounsfield": FRAMES},
    "gaussian_kernel": {"sigma": 1.0},
    "gaussian_random_2d": {"height": 16, "width": 16, "acceleration": 4.0},
    "golden_angles": {"views": 4},
    "gridded_kspace": {
        "kspace": torch.ones(2, 4, 8, dtype=torch.complex64),
        "trajectory": SPOKES,
        "image_size": SIZE,
    },
    "line_integral_noise": {"counts": 100 + FRAMES},
    "mix_coils": {"matrix": torch.ones(1, 2, 24, dtype=torch.complex64), "data": KSPACE},
    "noise_covariance": {"noise": KSPACE[None]},
    "pipe_menon_density": {"trajectory": SPOKES, "image_size": SIZE},
    "poisson_disc_2d": {"height": 16, "width": 16, "acceleration": 4.0},
    "prewhiten": {"kspace": KSPACE[None], "covariance": torch.eye(2, dtype=torch.complex64)},
    "radial_trajectory": {"angles": 4, "samples": 8, "image_size": SIZE},
    "ramp_density": {"trajectory": SPOKES, "image_size": SIZE},
    "random_kernels": {"count": 2, "size": 5},
    "recommend": {"operator": NOISING},
    "random_mask": {"height": 8, "width": 8, "keep": 0.5},
    "root_sum_of_squares": {"coil_images": KSPACE},
    "simulate_counts": {"line_integrals": FRAMES, "photons": 1e4},
    "simulate_sensitivity_maps": {"coils": 2, "height": 8, "width": 8},
    "spiral_trajectory": {"interleaves": 2, "samples": 16, "image_size": SIZE},
    "to_hounsfield": {"attenuation": FRAMES},
    "to_line_integrals": {"counts": 100 + FRAMES, "photons": 200.0},
    "uniform_random_lines": {"width": 32, "acceleration": 4.0},
    "CFGPlusPlus": {"scale": 0.6, "schedule": LINEAR, "times": [900.0, 400.0]},
    "generate": {"noise": FRAMES, "prior": GAUSSIAN, "steps": 2},
    "geometry": {"prior": GAUSSIAN, "images": FRAMES, "ratios": [1.0]},
    "spectrum": {"prior": GAUSSIAN, "images": FRAMES, "ratio": 1.0},
    "ConvMaps": {"rank": 2, "size": SIZE},
    "Examples": {"examples": torch.rand(4, 1, 8, 8)},
    "FreeMaps": {"rank": 2, "size": SIZE},
    "DenoiserPrior": {"denoiser": shrink},
    "Channelwise": {"prior": GAUSSIAN, "ranges": [(0.0, 1.0)]},
    "Diagonal": {"variance": 0.1},
    "Full": {"matrix": torch.eye(4)},
    "GaussianMixturePrior": {
        "weights": torch.ones(2) / 2,
        "means": torch.zeros(2, 1, 2, 2),
        "covariances": torch.eye(4).expand(2, 4, 4),
    },
    "GaussianPrior": {"mean": 0.5, "covariance": 0.1},
    "Matern": {"size": SIZE, "length": 2.0},
    "LowRank": {"components": torch.eye(64)[:2].reshape(2, 1, 8, 8), "values": torch.ones(2)},
    "MeanReverting": {},
    "NetworkPrior": {"network": NETWORK, "schedule": LINEAR, "channels": 1},
    "fit_range": {"prior": BY_CLASS, "y": FRAMES, "operator": NOISING},
    "fit_range_by_slabs": {
        "prior": BY_CLASS,
        "slabs": Slabs(2, 1, lambda a, b: (FRAMES, NOISING)),
    },
    "Guided": {"prior": BY_CLASS, "condition": 1, "null": 0},
    "Itemwise": {"prior": GAUSSIAN},
    "Tuned": {"prior": BY_CLASS, "way": "single"},
    "Patchwise": {"prior": GAUSSIAN},
    "Product": {"priors": [GAUSSIAN, GAUSSIAN], "channels": [1, 1]},
    "Proximal": {"prox": shrink},
    "Reflected": {"prior": GAUSSIAN, "weak": GAUSSIAN, "times": [900.0, 400.0]},
    "Rescheduled": {"prior": GAUSSIAN, "schedule": LINEAR},
    "Simplex": {"mean": torch.ones(8, 8) / 64},
    "Skip": {"gaussian": GAUSSIAN, "ratio": 2.0},
    "Skipping": {"prior": GAUSSIAN, "skip": priors.Skip(GAUSSIAN, 2.0)},
    "Slicewise": {"prior": GAUSSIAN},
    "unexplained": {"prior": GAUSSIAN, "gaussian": GAUSSIAN, "images": FRAMES, "ratios": [2.0]},
    "Stationary": {"spectrum": torch.ones(8, 8)},
    "Tabulated": {"alpha": [1.0, 0.5], "sigma": [0.0, 0.5]},
    "rddm_from_ddim": {"betas": [0.1, 0.2]},
    "from_deepinv": {"name": "DiffPIR"},
    "TextCondition": {"embeddings": torch.ones(1, 3, 4)},
    "as_reconstructor": {"solver": solvers.DDS(steps=2), "prior": GAUSSIAN},
    "State": {"x": FRAMES, "x0": FRAMES},
}

LEFT_OUT = {
    "from_cil": "of objects of another package, in test_foreign_scans",
    "ForeignScan": "made by from_astra and from_cil",
    "available": "takes nothing",
    "tuned": "measures for seconds, in test_tuned",
    "load": "of files, in test_hostile_files",
    "publish": "of the hub, in test_publishing",
    "from_spandrel": "of files, in test_spandrel",
    "by_slabs": "of files, in test_slabs",
    "dehaze": "of minutes, in test_dehazing",
    "dehaze_sequence": "of minutes, in test_dehazing",
    "Problem": "made by Problem.create, which checks",
    "Code": "made by Inversion.encode, in test_inversion",
    "Whiteness": "a record",
    "Geometry": "a record",
    "State": "a record",
    "Dehazed": "a record",
    "OperatorReport": "a record",
    "Degraded": "a record",
    "Superposition": "made of its parts, in test_superposition",
    "Bilinear": "a base",
    "Prior": "a base",
    "Prompted": "made by load, in test_text_priors",
    "DiffusersAutoencoder": "of diffusers' models, in test_latent",
    "DiffusersPrior": "of diffusers' models, in test_checkpoints",
    "Given": "of class-conditional models, in test_checkpoints",
    "Latent": "of autoencoders, in test_latent",
}


def _good_call(function, needed):
    """Return the arguments of a call by name, defaults filled in."""
    parameters = inspect.signature(function).parameters
    named = {
        name: p.default
        for name, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    given = {**named, **needed}
    return {name: value for name, value in given.items() if value is not inspect.Parameter.empty}


def _calls():
    known = named_solvers()
    for wing in WINGS:
        for name in dir(wing):
            value = getattr(wing, name)
            if name[0] == "_" or not callable(value) or name in LEFT_OUT:
                continue
            if inspect.isabstract(value) and name not in NEEDED:
                continue
            solver = value in known.values()
            yield name, (value, _good_call(value, {} if solver else NEEDED.get(name, {})))


CALLS = dict(_calls())

REAL = ("0.5", "1.5", "huge")
FRACTION = ("0", "0.5")
SIGNED = ("-1", "-0.5", "0", *REAL)
VALUES = ("0-d tensor", "one", "many axes", "negative", "zeros", "integers")

RIGHTLY = {
    # A folder, read when it is needed.
    ("Unrolled", "weights"): ("text", "empty text", "number as text", "long text"),
    "cache": ("text", "number as text", "path"),  # folders
    "noise_sigma": ("0-d tensor", "one", "integers", *("0", *REAL)),
    "seed": ("list of zeros",),
    "kernel": ("negative", "integers"),
    "mask": ("one", "integers"),
    "angles": ("one", "list of zeros"),
    "trajectory": ("many axes",),
    **dict.fromkeys(("offset", "elevation"), SIGNED),
    **dict.fromkeys(("hounsfield", "counts", "attenuation"), VALUES),
    # What no range declares, as it depends on other arguments, or bends a curve.
    **dict.fromkeys(("mu", "spread", "turns", "kappa", "max_sigma", "min_ratio", "sigma"), REAL),
    **dict.fromkeys(("source_distance", "detector_distance", "photons", "sigma_max"), REAL),
    **dict.fromkeys(("cutoff", "crop", "threshold", "ratio", "keep", "intensity"), FRACTION),
    **dict.fromkeys(("T", "eps", "max_noise", "sum_scale", "floor", "zeta"), FRACTION),
    **dict.fromkeys(("acceleration", "oversampling", "min_noise", "sigma_min"), ("0.5", "1.5")),
    **dict.fromkeys(("denoiser", "prox", "label", "f", "maps"), ("function", "class")),
    ("OffResonanceMRI", "field_map"): ("negative", "zeros", "integers"),
    ("OffResonanceMRI", "times"): ("0-d tensor", "one"),
    **dict.fromkeys((("Separable", "rows"), ("Separable", "columns")), ("negative", "zeros")),
    ("root_sum_of_squares", "coil_images"): ("many axes", "negative", "zeros", "complex tensor"),
    ("simulate_counts", "line_integrals"): VALUES[1:],
    ("to_line_integrals", "photons"): ("1.5", "huge", "one", "integers"),
    ("to_line_integrals", "dark"): (*SIGNED, *VALUES),
    ("Examples", "examples"): ("many axes",),
    ("TextCondition", "guidance"): ("one",),
    ("GaussianPrior", "mean"): (*SIGNED, *VALUES, "complex tensor"),
    ("Diagonal", "variance"): ("0-d tensor", "one", "many axes", "integers"),
    ("Stationary", "spectrum"): ("0-d tensor", "one", "many axes", "integers"),
    ("rddm_from_ddim", "betas"): ("one",),
    ("generate", "noise"): ("many axes", "negative", "zeros", "complex tensor"),
    ("geometry", "images"): ("many axes", *VALUES[3:]),
    ("spectrum", "images"): ("many axes", *VALUES[3:]),
    ("unexplained", "images"): ("many axes", "complex tensor", *VALUES[3:]),
    **dict.fromkeys((("CFGPlusPlus", "times"), ("Reflected", "times")), ("list of zeros", "one")),
    ("Guided", "condition"): ("0",),
    ("Guided", "null"): ("0",),
    ("Guided", "guidance"): ("function", "class"),
}
"""Odd values that are rightly accepted though no range declares them.

By argument where it means the same everywhere, or by (name, argument).
"""
