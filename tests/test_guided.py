"""Class-conditional priors: a class, a null class, guidance."""

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from wellposed import errors
from wellposed.cli import priors as command
from wellposed.cli.app import app
from wellposed.priors import Guided, NetworkPrior, Tabulated
from wellposed.priors.stored.registry import Checkpoint
from wellposed.validation.readings import other_readings

pytestmark = pytest.mark.usefixtures("single_thread")

VP = Tabulated.linear()


class ByClass(nn.Module):
    """Predicts a sample that is the class everywhere; counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, label, classes):
        self.calls += 1
        return torch.zeros_like(x) + classes.view(-1, 1, 1, 1)


def made():
    return NetworkPrior(ByClass(), VP, "sample", num_classes=10, channels=1, data_range=(-1, 1))


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_guidance_is_linear_in_its_weight(weight):
    prior, x = made(), torch.zeros(2, 1, 4, 4)
    found = Guided(prior, 7, weight, null=9).denoise(x, 5.0)
    assert found.unique().tolist() == [9 + weight * (7 - 9)]
    assert prior.network.calls == (1 if weight == 1 else 2)
    each = Guided(prior, torch.tensor([1, 3]), weight, null=9).denoise(x, 5.0)
    assert each[:, 0, 0, 0].tolist() == [9 + weight * (1 - 9), 9 + weight * (3 - 9)]


def test_a_null_class_is_needed_where_the_prior_knows_none():
    prior = made()
    with pytest.raises(errors.ArgumentError, match="null: got None, accepted: the class that st"):
        Guided(prior, 7, 2.0)
    prior.null_class = 10
    assert Guided(prior, 7, 2.0).denoise(torch.zeros(1, 1, 4, 4), 5.0).unique().tolist() == [4]
    with pytest.raises(errors.ArgumentError, match="guidance: got nan"):
        Guided(prior, 7, float("nan"))


def test_other_readings_keep_the_class():
    guided = Guided(made(), 7, 2.0, 9)
    found = {r.name: r.prior for r in other_readings(guided, ("sample", "noise"))}
    assert {"prediction='noise'", "schedule='cosine'"} <= found.keys()
    assert all(isinstance(p, Guided) and p.condition == 7 for p in found.values())
    assert found["schedule='cosine'"].schedule.alpha[500] > VP.alpha[500]


@pytest.fixture
def run(monkeypatch):
    checkpoint = Checkpoint("test", made())
    monkeypatch.setattr(command, "read_checkpoint", lambda *_, **__: checkpoint)

    def inspect(*arguments):
        return CliRunner().invoke(app, ["inspect", "p", *map(str, arguments)])

    return inspect


def test_classes_on_the_command_line(run):
    done = run()
    assert done.exit_code == 2
    assert "--class: got none, accepted: 0 to 9, as this prior has" in done.output
    assert "--class: got 10, accepted: 0 to 9" in run("--class", 10).output
    done = run("--class", 3, "--guidance", 2, "--null-class", 9)
    assert "gain in dB" in done.output, done.output
    assert "null: got None" in run("--class", 3, "--guidance", 2).output


def test_other_priors_have_no_class():
    done = CliRunner().invoke(app, ["inspect", "ct", "--class", "1"])
    assert done.exit_code == 2
    assert "--class: got 1, accepted: none, as this prior is not class-conditional" in done.output
