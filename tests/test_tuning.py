"""Tuning: the search within its budget, recipes, ranges, and the command."""

import json
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from tests.helpers import normal, run
from tests.test_cli import tiny_prior

from wellposed.benchmark import Instance, Recipe, Span, Values, tune
from wellposed.benchmark.ranges import default_ranges, range_of, require_ranges
from wellposed.cli.comparison_settings import Tune
from wellposed.cli.entrants import entrant
from wellposed.cli.tune import _ranges
from wellposed.errors import ArgumentError, FileError, SamplingError, UnknownNameError
from wellposed.operators import Inpainting, random_mask
from wellposed.priors import GaussianPrior
from wellposed.solvers import DDS, FBP, HQS, FlowChef, PnPDM, Problem, Tikhonov
from wellposed.solvers.catalogue import named_solvers
from wellposed.validation.conditions import task_conditions
from wellposed.validation.gaussian import field_covariance

pytestmark = pytest.mark.usefixtures("single_thread")
SIDE = 6
WEIGHT = {"weight": Span(1e-3, 10.0, log=True)}


class Counted(GaussianPrior):
    """A prior that counts the images that it denoises."""

    def __init__(self):
        super().__init__(0.2, field_covariance(SIDE))
        self._count = [0]

    def denoise(self, x_t, t, *args, **options):
        self._count[0] += len(x_t)
        return super().denoise(x_t, t, *args, **options)


def problems(count=3, keep=0.5, noise=0.1, prior=None):
    prior = Counted() if prior is None else prior
    truth = prior.draw(normal(count, 1, SIDE, SIDE))
    operator = Inpainting(random_mask(SIDE, SIDE, keep, 0), 1, noise)
    y = operator.measure(truth, 0)
    each = zip(truth.split(1), y.split(1), strict=True)
    return [Instance.known(f"{n}", x, m, operator, prior) for n, (x, m) in enumerate(each)]


@pytest.fixture(scope="module")
def recipe():
    return tune(HQS(steps=3), problems(2), {"lambda_": Span(0.1, 1.0, log=True)}, evaluations=30)


# The search


def test_the_best_weight_is_found():
    """``y / (1 + w)`` of white images has the least error at ``1 + w = <y, y> / <x, y>``."""
    prior = GaussianPrior(0.0, 1.0)
    found = problems(1, keep=1.0, noise=1.0, prior=prior)
    truth = prior.draw(normal(1, 1, SIDE, SIDE))
    best = float(found[0].y.square().sum() / (truth * found[0].y).sum()) - 1
    tuned = tune(Tikhonov(steps=1), found, WEIGHT, evaluations=25)
    assert tuned.settings["weight"] == pytest.approx(best, rel=0.3)
    assert tuned.default is not None and tuned.value > tuned.default
    assert tuned.evaluations == tuned.trials == 25


@pytest.mark.parametrize("solver", [HQS(steps=4), DDS(steps=4)])
def test_the_evaluations_are_counted_and_the_defaults_are_no_better(solver):
    own = problems()
    found = tune(solver, own, evaluations=150, num_samples=2)
    assert found.evaluations == own[0].prior._count[0] <= 150
    assert found.value >= found.default
    again = [found.solver()(p.y, p.operator, p.prior, seed=0) for p in own]
    if solver.deterministic:
        scores = [p.score(r)["PSNR"] for p, r in zip(own, again, strict=True)]
        assert np.mean(scores) == pytest.approx(found.value)
    assert found.num_samples == (1 if solver.deterministic else 2)


def test_settings_that_fall_behind_are_stopped():
    found = tune(Tikhonov(steps=1), problems(4), WEIGHT, evaluations=40)
    assert found.trials > 40 / 4


def test_the_same_seed_gives_the_same_recipe(recipe):
    ranges = {"lambda_": Span(0.1, 1.0, log=True)}
    assert tune(HQS(steps=3), problems(2), ranges, evaluations=30) == recipe
    assert tune(HQS(steps=3), problems(2), ranges, evaluations=30, seed=1) != recipe


def test_an_interrupted_search_goes_on(tmp_path, recipe):
    own, ranges = problems(2), {"lambda_": Span(0.1, 1.0, log=True)}
    tune(HQS(steps=3), own, ranges, evaluations=12, folder=tmp_path)
    before = own[0].prior._count[0]
    assert tune(HQS(steps=3), own, ranges, evaluations=30, folder=tmp_path) == recipe
    assert own[0].prior._count[0] == recipe.evaluations > before


def test_settings_that_fail_are_worst():
    found = tune(FlowChef(steps=3), problems(2), {"step_size": Values((1e200, 0.3))})
    assert found.failed == 1 and found.settings["step_size"] in (0.04, 0.3)
    refused = tune(PnPDM(steps=2), problems(1), {"rho_min": Values((0.5, 20.0))}, evaluations=300)
    assert refused.failed == 1
    with pytest.raises(SamplingError, match="all 3 settings failed"):
        tune(
            FlowChef(steps=3, step_size=1e200), problems(1), {"step_size": Values((1e201, 1e202))}
        )


def test_ranges_that_are_exhausted_end_the_search():
    found = tune(HQS(steps=2), problems(1), {"cg_steps": Values((1, 2))})
    assert found.trials == 3 and found.evaluations == 6
    steps = tune(HQS(steps=2), problems(1), {"steps": Span(2, 4)}).settings["steps"]
    assert steps in (2, 3, 4) and isinstance(steps, int)


def test_less_is_better_for_some_objectives():
    found = tune(DDS(steps=3), problems(1), evaluations=60, objective="CRPS", num_samples=2)
    assert found.value <= found.default


def test_tuning_without_a_network_needs_no_prior():
    found = tune(Tikhonov(steps=1), problems(1), WEIGHT, evaluations=2)
    assert found.conditions["prior"].startswith("Flat")


@dataclass(frozen=True, kw_only=True)
class Mine(DDS):
    """Not of the package."""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"solver": DDS}, "solver: got"),
        ({"solver": Mine()}, "a solver of the package"),
        ({"problems": []}, "problems: got"),
        ({"problems": 3}, "problems: got"),
        ({"ranges": {}}, "ranges: got 'none for hqs'"),
        ({"ranges": {"lambda": Span(0, 1)}}, "Did you mean 'lambda_'"),
        ({"ranges": {"lambda_": Span(0, 1)}}, "ranges: lambda_: got 0"),
        ({"ranges": {"cg_steps": Span(1.5, 3)}}, "ranges: cg_steps: got 1.5"),
        ({"ranges": {"batch_size": Span(1, 3)}}, "unknown name 'batch_size'"),
        ({"ranges": {"lambda_": (0, 1)}}, "ranges: lambda_: got"),
        ({"evaluations": 0}, "evaluations: got 0"),
        ({"evaluations": 5}, "at least 6"),
        ({"objective": "psnr"}, "unknown name 'psnr'"),
        ({"objective": "CRPS"}, "unknown name 'CRPS'"),
        ({"num_samples": 0}, "num_samples: got 0"),
        ({"seed": -1}, "seed: got -1"),
        ({"folder": 3}, "folder: got 3"),
    ],
)
def test_what_cannot_be_tuned_is_named(changes, words):
    given = {"solver": HQS(steps=3), "ranges": {"lambda_": Values((0.1, 0.2))}}
    given |= {"problems": problems(2), "evaluations": 30, **changes}
    with pytest.raises(ArgumentError, match=words):
        tune(given.pop("solver"), given.pop("problems"), given.pop("ranges"), **given)


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ArgumentError, match=r"pip install 'wellposed\[tune\]'"):
        tune(HQS(steps=3), problems(1))


# Ranges


def test_solvers_accept_their_ranges():
    own = problems(1)[0]
    problem = Problem.create(own.y, own.operator, own.prior)
    tuned = {n: default_ranges(c, problem) for n, c in named_solvers().items()}
    for name, ranges in tuned.items():
        if ranges:
            require_ranges(named_solvers()[name], ranges)
    assert sum(map(bool, tuned.values())) >= 15
    with pytest.raises(ArgumentError, match="none for fbp"):
        require_ranges(FBP, tuned["fbp"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.1:100:log", Span(0.1, 100, True)), ("0:1", Span(0, 1)), ([1, 2], Values((1, 2)))],
)
def test_ranges_are_read(text, expected):
    assert range_of("gamma", text) == expected


@pytest.mark.parametrize(
    "text",
    ["1", "1:1", "2:1", "a:b", "0:1:log", "1:2:lin", "1:inf", "nan:1", "", [1], [[1], 2], 3],
)
def test_other_ranges_are_refused(text):
    with pytest.raises(ArgumentError, match="gamma: got"):
        range_of("gamma", text)


def test_ranges_of_options_go_before_those_of_a_card():
    own = {"hqs": {"lambda_": "0.1:1:log", "start": [0.3, 0.4]}}
    options = Tune(solver="hqs", out="x.json", card="mri-4x", range=("start=1,2",))
    found = _ranges(options, HQS(), problems(1)[0], own)
    assert found == {"lambda_": Span(0.1, 1.0, log=True), "start": Values((1, 2))}
    with pytest.raises(ArgumentError, match="tuning: start: got 'low'"):
        _ranges(options, HQS(), problems(1)[0], {"hqs": {"start": "low"}})


# Recipes


def test_recipes_come_back_from_files(tmp_path, recipe):
    path = recipe.save(tmp_path / "recipe.json")
    again = Recipe.load(path)
    assert again == recipe and again.solver() == recipe.solver()
    assert isinstance(again.solver(), HQS) and again.solver(steps=7).steps == 7
    with pytest.raises(ArgumentError, match=r"ends in \.json"):
        recipe.save(tmp_path / "recipe.toml")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"method": "hqss"}, UnknownNameError, "Did you mean 'hqs'"),
        ({"method": 3}, ArgumentError, "method: got 3"),
        ({"settings": {"lamda_": 1}}, UnknownNameError, "Did you mean 'lambda_'"),
        ({"settings": {"lambda_": -1}}, ArgumentError, "lambda_: got -1"),
        ({"settings": []}, ArgumentError, "settings: got"),
        ({"value": None}, ArgumentError, "value: got None"),
        ({"value": float("nan")}, ArgumentError, "value: got nan"),
        ({"images": "all"}, ArgumentError, "images: got"),
        ({"conditions": 1}, ArgumentError, "conditions: got 1"),
        ({"more": 1}, FileError, "lacking or unknown: more"),
    ],
)
def test_changed_recipes_are_named(tmp_path, recipe, changes, error, words):
    path = recipe.save(tmp_path / "recipe.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(error, match=words):
        Recipe.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"3", b"{}"])
def test_damaged_recipes_are_named(tmp_path, content):
    path = tmp_path / "recipe.json"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"recipe\.json' is not a recipe"):
        Recipe.load(path)
    with pytest.raises(FileError, match="no such file"):
        Recipe.load(tmp_path / "other.json")


def test_other_tasks_are_warned_of(recipe, recwarn):
    def warned(**changes):
        own = problems(1, **changes)[0]
        recwarn.clear()
        recipe.warn_of(task_conditions(Problem.create(own.y, own.operator, own.prior)))
        return [str(each.message) for each in recwarn]

    assert warned() == warned(noise=0.15) == []
    assert "noise 0.3 instead of 0.1" in warned(noise=0.3)[0]
    assert "measured" in warned(keep=0.1)[0]
    assert "prior" in warned(prior=GaussianPrior(0.0, field_covariance(SIDE)))[0]


# The command


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray((255 * rng.random((16, 16))).astype(np.uint8)).save(folder / f"{name}.png")
    tiny_prior(folder / "prior", 1, False)
    done = run("tune", *words(folder), "--out", folder / "hqs.json")
    assert done.exit_code == 0, done.output
    assert "given" in done.stdout and "network evaluations" in done.stdout
    return folder


def task(folder):
    return ("--operator", "inpainting", "--noise-sigma", 0.1, "--prior", folder / "prior")


def words(folder):
    images = (folder / "a.png", folder / "b.png")
    return (*images, *task(folder), "--solver", "HQS", "--steps", 2, "--evaluations", 12)


def test_the_command_writes_a_recipe_that_others_read(files, tmp_path):
    recipe = Recipe.load(files / "hqs.json")
    assert recipe.method == "hqs" and recipe.settings["steps"] == 2
    assert recipe.images == ("a.png", "b.png") and recipe.evaluations <= 12
    given = ("reconstruct", files / "a.png", "--simulate", *task(files))
    done = run(*given, "--recipe", files / "hqs.json", "--set", "cg_steps=7", "--out", tmp_path)
    assert done.exit_code == 0 and "recipe:" not in done.stderr, done.output
    solver = entrant(f"recipe:{files / 'hqs.json'} cg_steps=7")
    assert solver == recipe.solver(cg_steps=7)
    other = ("--noise-sigma", 0.9, "--recipe", files / "hqs.json", "--out", tmp_path / "other")
    assert "warning: recipe: the task has noise" in run(*given, *other).stderr
    refused = run(*given, "--recipe", files / "hqs.json", "--solver", "dds", "--out", tmp_path)
    assert refused.exit_code == 2 and "accepted: hqs, the solver of" in refused.stderr


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--out", "x.txt"), "--out: got 'x.txt'"),
        (("--solver", "hqq"), "Did you mean 'hqs'"),
        (("--solver", "m.py:M"), "--solver: got 'm.py:M'"),
        (("--solver", "dds-3d"), "a solver of images"),
        (("--solver", "twisted"), "--range: got 'none for twisted'"),
        (("--range", "lambda_"), "--range: got 'lambda_', accepted: name=value"),
        (("--range", "lambda_=1"), "--range lambda_: got '1', accepted: LOW:HIGH"),
        (("--range", "lamda_=1:2"), "Did you mean 'lambda_'"),
        (("--range", "lambda_=-1:2"), "--range: lambda_: got -1"),
        (("--range", "steps=1:2"), "--range: got 'steps'"),
        (("--evaluations", 3), "evaluations: got 3, accepted: at least 4"),
        (("--evaluations", 0), "evaluations: got 0"),
        (("--objective", "LPIPS"), "objective: unknown name 'LPIPS'"),
        (("--data", "."), "--data: got '.', accepted: only with --card"),
        (("--card", "mri-4x"), "only without --card"),
        (("--coils", 4), "--coils: got 4"),
    ],
)
def test_what_the_command_refuses(files, tmp_path, monkeypatch, more, expected):
    monkeypatch.chdir(tmp_path)
    done = run("tune", *words(files), "--out", "x.json", *more)
    assert done.exit_code == 2 and expected in done.stderr, done.output
    assert not (tmp_path / "x.json").exists()


def test_cards_are_tuned_on_other_images_than_their_test():
    from wellposed.benchmark.problems import DATA

    def refused(*more):
        done = run("tune", "--solver", "dds", "--out", "x.json", *more)
        assert done.exit_code == 2
        return done.stderr

    assert "--data: got None" in refused("--card", "mri-4x")
    assert "a test image of mri-4x" in refused("--card", "mri-4x", "--data", DATA)
    assert "no such folder" in refused("--card", "mri-4x", "--data", DATA / "none")
    assert "a card of images" in refused("--card", "mixture", "--data", DATA)
    assert "--operator: got None" in refused()
