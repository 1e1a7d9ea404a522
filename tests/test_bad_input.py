"""Bad input to solvers: one clear error each, before the first network call, nothing lost."""

import math

import deepinv
import pytest
import torch
from torch import nn

from wellposed import errors
from wellposed.noise import RecordedNoise
from wellposed.operators import Inpainting, MultiCoilMRI, simulate_sensitivity_maps
from wellposed.operators.base import LinearOperator
from wellposed.priors import NetworkPrior, Tabulated
from wellposed.solvers import DDS, DPS, DDIMProjection, REDDiff


class Counting(nn.Module):
    calls = 0

    def forward(self, x, label):
        self.calls += 1
        return 0.5 * x


def prior(**images):
    return NetworkPrior(
        Counting(), Tabulated.linear(), **{"channels": 3, "data_range": (-1.0, 1.0), **images}
    )


Y = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.ones(8, 8)


class WrongAdjoint(LinearOperator):
    """An operator whose adjoint is 5 % too large."""

    def __init__(self):
        super().__init__((3, 8, 8), (3, 8, 8))

    def forward_map(self, x):
        return 2 * x

    def adjoint_map(self, y):
        return 2.1 * y


def with_value(value):
    y = Y.clone()
    y[1, 0, 3, 3] = value
    return y


def kspace_operator():
    return MultiCoilMRI(MASK, simulate_sensitivity_maps(2, 8, 8), 0.01)


CALLS = {
    "noise is a list": (dict(noise=[Y], seed=None), errors.ArgumentError, "noise: got"),
    "noise and seed": (dict(noise=RecordedNoise([Y])), errors.ArgumentError, "seed: got 0"),
    "True samples": (dict(num_samples=True), errors.ArgumentError, "num_samples: got True"),
    "y is a list": (dict(y=[1.0, 2.0]), errors.DtypeError, "y: got list"),
    "y of integers": (dict(y=(255 * Y).byte()), errors.DtypeError, "y: got torch.uint8"),
    "y with NaN": (dict(y=with_value(math.nan)), errors.NonFiniteError, "y: 1 of 384"),
    "y infinite": (dict(y=with_value(-math.inf)), errors.NonFiniteError, "y: 1 of 384"),
    "y without batch": (dict(y=Y[0]), errors.ShapeError, "y: got shape"),
    "y one row": (dict(y=Y[0, 0, 0]), errors.ShapeError, "batch first"),
    "y empty": (dict(y=Y[:0]), errors.ShapeError, "y: got shape"),
    "y of another size": (dict(y=Y[..., :7]), errors.ShapeError, "y: got shape"),
    "y of other channels": (dict(y=Y[:, :2]), errors.ShapeError, "y: got shape"),
    "y complex": (dict(y=Y.to(torch.complex64)), errors.DtypeError, "real floating-point"),
    "y on another device": (dict(y=Y.to("meta")), errors.DeviceError, "meta"),
    "real k-space": (
        dict(y=Y[:, :2], operator=kspace_operator(), prior=prior(channels=1, is_complex=True)),
        errors.DtypeError,
        "complex tensor",
    ),
    "operator is None": (dict(operator=None), errors.ArgumentError, "operator: got NoneType"),
    "operator is a function": (dict(operator=torch.sin), errors.ArgumentError, "operator: got"),
    "wrong adjoint": (dict(operator=WrongAdjoint()), errors.ArgumentError, "not the adjoint"),
    "operator per item": (
        dict(operator=Inpainting(torch.ones(5, 3, 8, 8))),
        errors.ShapeError,
        "got 2 items, accepted: 5",
    ),
    "prior is None": (dict(prior=None), errors.ArgumentError, "prior: got NoneType"),
    "prior is a denoiser": (
        dict(prior=deepinv.models.MedianFilter()),
        errors.ArgumentError,
        "DenoiserPrior",
    ),
    "prior of other channels": (dict(prior=prior(channels=1)), errors.ShapeError, "3"),
    "complex prior, real images": (
        dict(prior=prior(channels=1, is_complex=True)),
        errors.ShapeError,
        "prior",
    ),
    "real prior, complex images": (
        dict(y=Y[:, :2].to(torch.complex64), operator=kspace_operator(), prior=prior(channels=1)),
        errors.ShapeError,
        "complex",
    ),
    "no samples": (dict(num_samples=0), errors.ArgumentError, "num_samples: got 0"),
    "half a sample": (dict(num_samples=1.5), errors.ArgumentError, "num_samples: got 1.5"),
    "negative seed": (dict(seed=-1), errors.ArgumentError, "seed: got -1"),
    "seed is text": (dict(seed="7"), errors.ArgumentError, "seed: got '7'"),
    "recorded noise and samples": (
        dict(noise=RecordedNoise([Y]), num_samples=2, seed=None),
        errors.ArgumentError,
        "num_samples",
    ),
    "recorded noise of another shape": (
        dict(noise=RecordedNoise([Y[..., :4]]), seed=None),
        errors.ShapeError,
        "noise: draw 0",
    ),
}


@pytest.mark.parametrize(("change", "error", "words"), CALLS.values(), ids=CALLS.keys())
def test_bad_calls_name_the_argument_before_the_network_runs(change, error, words):
    call = {"y": Y, "operator": Inpainting(MASK), "prior": prior(), "seed": 0, **change}
    with pytest.raises(error, match=words) as caught:
        DDS(steps=3)(**call)
    assert isinstance(caught.value, errors.WellposedError)
    if isinstance(call["prior"], NetworkPrior):
        assert call["prior"].network.calls == 0


SETTINGS = {
    "clip as text": (DPS, dict(clip="false"), "clip: got 'false'"),
    "batch_size not whole": (DDS, dict(batch_size=2.5), "batch_size: got 2.5"),
    "beta1": (REDDiff, dict(beta1=1.0), "beta1: got 1.0"),
    "epsilon": (REDDiff, dict(epsilon=-1.0), "epsilon: got -1.0"),
    "obs_weight": (REDDiff, dict(obs_weight=math.nan), "obs_weight: got nan"),
    "zeta infinite": (DPS, dict(zeta=math.inf), "zeta: got inf"),
    "no steps": (DDS, dict(steps=0), "steps: got 0"),
    "steps not whole": (DDS, dict(steps=2.5), "steps: got 2.5"),
    "spacing": (DDS, dict(spacing="leadin"), "Did you mean 'leading'"),
    "batch_size": (DDS, dict(batch_size=0), "batch_size: got 0"),
    "eta": (DDS, dict(eta=1.2), "eta: got 1.2"),
    "gamma": (DDS, dict(gamma=-1.0), "gamma: got -1.0"),
    "gamma nan": (DDS, dict(gamma=math.nan), "gamma: got nan"),
    "cg_steps": (DDS, dict(cg_steps=0), "cg_steps: got 0"),
    "weighting": (REDDiff, dict(weighting="linar"), "Did you mean 'linear'"),
    "start": (REDDiff, dict(start="adjoint"), "start: unknown name 'adjoint'"),
    "returned": (REDDiff, dict(returned="x1"), "returned: unknown name 'x1'"),
    "learning_rate": (REDDiff, dict(learning_rate=0.0), "learning_rate: got 0.0"),
    "regularization": (REDDiff, dict(regularization=-0.1), "regularization: got -0.1"),
    "sigma_x0": (REDDiff, dict(sigma_x0=-1.0), "sigma_x0: got -1.0"),
    "zeta": (DPS, dict(zeta=-1.0), "zeta: got -1.0"),
    "projection eta": (DDIMProjection, dict(eta=-0.1), "eta: got -0.1"),
}


def test_bad_hyper_parameters_are_refused_when_given():
    for cls, settings, words in SETTINGS.values():
        with pytest.raises(errors.ArgumentError, match=words):
            cls(**settings)


def test_more_steps_than_the_schedule_has():
    with pytest.raises(errors.ArgumentError, match="steps: got 2000"):
        DDS(steps=2000)(Y, Inpainting(MASK), prior(), seed=0)


def test_clipping_complex_images_is_refused():
    y = kspace_operator().A(Y[:, :1].to(torch.complex64))
    with pytest.raises(errors.ArgumentError, match="clip"):
        DPS(clip=True)(y, kspace_operator(), prior(channels=1, is_complex=True), seed=0)


class Breaking(nn.Module):
    """A network that turns to NaN at its third call."""

    calls = 0

    def forward(self, x, label):
        self.calls += 1
        return x * (math.nan if self.calls == 3 else 0.5)


@pytest.mark.parametrize("cls", [DDS, DPS, DDIMProjection, REDDiff])
def test_a_nan_inside_a_run_stops_it_and_names_the_step(cls):
    broken = NetworkPrior(Breaking(), Tabulated.linear(), channels=3, data_range=(-1.0, 1.0))
    with pytest.raises(errors.SamplingError, match="step 3 of 5"):
        cls(steps=5)(Y, Inpainting(MASK), broken, seed=0)
