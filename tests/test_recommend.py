"""The solver that suits a problem, in Python and on the command line."""

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import anchored, run
from torch import nn

from wellposed import errors, operators, priors, solvers
from wellposed.priors import rddm_from_ddim

LINEAR = operators.Inpainting(torch.ones(16, 16), noise_sigma=0.1)
NONLINEAR = operators.JPEG((3, 16, 16))
PRIOR = priors.GaussianPrior(0.5, 0.1)
SCAN = operators.ParallelBeamCT(16, 8)


@pytest.mark.parametrize(
    ("operator", "prior", "goal", "kind"),
    [
        (LINEAR, PRIOR, "mean", solvers.HQS),
        (LINEAR, PRIOR, "samples", solvers.MMPS),
        (LINEAR, priors.Slicewise(PRIOR), "mean", solvers.HQS),
        (LINEAR, priors.Slicewise(PRIOR), "samples", solvers.DDS),
        (NONLINEAR, PRIOR, "mean", solvers.HQS),
        (NONLINEAR, PRIOR, "samples", solvers.DAPS),
        (LINEAR, None, "mean", solvers.TotalVariation),
        (SCAN, None, "mean", solvers.FBP),
        (operators.Inpainting(torch.ones(16, 16)), None, "mean", solvers.BackProjection),
    ],
)
def test_the_solver_follows_from_operator_prior_and_goal(operator, prior, goal, kind):
    found = solvers.recommend(operator, prior, goal)
    assert type(found) is kind
    if found.uses_prior and kind is not solvers.DAPS:
        assert solvers.recommend(operator, prior, goal, evaluations=7).steps == 7


def test_restorers_have_the_sampler_of_their_process():
    restorer = anchored(nn.Identity(), rddm_from_ddim(torch.full((10,), 0.1)))
    assert isinstance(solvers.recommend(None, restorer), solvers.RDDM)
    assert solvers.recommend(None, restorer, evaluations=3).steps == 3


def test_what_cannot_be_recommended_is_named():
    with pytest.raises(
        errors.ArgumentError, match="operator: got NoneType, accepted: a wellposed operator"
    ):
        solvers.recommend(None, PRIOR)
    with pytest.raises(errors.ArgumentError, match="goal: got 'samples', accepted: 'mean'"):
        solvers.recommend(LINEAR, None, "samples")
    with pytest.raises(errors.WellposedError, match=r"goal: .*median"):
        solvers.recommend(LINEAR, PRIOR, "median")
    with pytest.raises(errors.ArgumentError, match="evaluations: got 0"):
        solvers.recommend(LINEAR, PRIOR, evaluations=0)


def test_an_unknown_parameter_is_found_with_the_image():
    blind = operators.BlindBlur((1, 16, 16), 5, 0.1)
    both = priors.Product([PRIOR, PRIOR], channels=[1, 1])
    assert isinstance(solvers.recommend(blind, both), solvers.BlindHQS)
    assert isinstance(solvers.recommend(blind, both, "samples"), solvers.DPS)
    found = solvers.recommend(blind, both, evaluations=100)
    assert found.starts * found.steps + found.image_steps == 100
    assert solvers.recommend(blind, both, "samples", evaluations=9).steps == 9


def test_evaluations_of_daps_are_those_of_all_levels():
    assert solvers.recommend(NONLINEAR, PRIOR, "samples", evaluations=50).steps == 10


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def reconstruct(photo, out, *options):
    words = ["--operator", "deblurring", "--simulate", "--noise-sigma", 0.05, "--out", out]
    return run("reconstruct", photo, *words, *options)


def solved(out):
    (path,) = out.glob("*.h5")
    with h5py.File(path) as file:
        return file.attrs["solver"], "std" in file


@pytest.mark.slow
def test_a_command_without_a_solver_gives_one_estimate(photo, tmp_path):
    done = reconstruct(photo, tmp_path / "o", "--steps", 2)
    assert done.exit_code == 0, done.output
    assert "hqs, 2 steps" in done.output and "estimate" in done.output
    assert solved(tmp_path / "o") == ("HQS", False)
    done = reconstruct(photo, tmp_path / "s", "--num-samples", 2, "--steps", 2)
    assert done.exit_code == 0, done.output
    assert solved(tmp_path / "s") == ("MMPS", True)


@pytest.mark.slow
def test_a_command_takes_solvers_without_a_prior(photo, tmp_path):
    done = reconstruct(photo, tmp_path / "o", "--solver", "total-variation")
    assert done.exit_code == 0, done.output
    assert solved(tmp_path / "o")[0] == "TotalVariation"
    done = reconstruct(photo, tmp_path / "p", "--solver", "tikhonov", "--prior", "natural")
    assert done.exit_code == 2 and "--prior: got 'natural', accepted: none with" in done.output
    done = reconstruct(photo, tmp_path / "q", "--set", "eta=1")
    assert done.exit_code == 2 and "--set: got 'eta=1'" in done.output
