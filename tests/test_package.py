"""The installed package: import time, layout, no global side effects."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import wellposed
from wellposed import datasets, errors, inversion, operators, priors, solvers
from wellposed.priors.stored import registry

ROOT = Path(__file__).parent.parent


def python(code, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **kwargs
    )


def test_import_is_light():
    heavy = ("torch", "deepinv", "diffusers", "matplotlib", "numpy")
    code = f"import sys, wellposed; print([m for m in {heavy} if m in sys.modules])"
    assert python(code).stdout.strip() == "[]"


def test_the_command_starts_light():
    heavy = ("torch", "deepinv", "diffusers", "matplotlib", "numpy")
    code = f"import sys, wellposed.cli.app; print([m for m in {heavy} if m in sys.modules])"
    assert python(code).stdout.strip() == "[]"


def test_solvers_and_priors_do_not_import_deepinv_diffusers_or_matplotlib():
    heavy = ("deepinv", "diffusers", "matplotlib")
    code = (
        "import sys; from wellposed import Reconstruction, operators, priors, solvers;"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert python(code).stdout.strip() == "[]"


WITHOUT = "import sys; sys.modules.update(dict.fromkeys({names}))\n"


@pytest.mark.slow
def test_the_core_does_without_the_extras():
    """Every public name is there, and the list of the command, without what extras hold."""
    names = ("nibabel", "pydicom", "pylibjpeg", "gdcm", "accelerate")
    listed = "sys.argv[1:] = ['list']; from wellposed.__main__ import main; main()"
    done = python(WITHOUT.format(names=names) + listed)
    assert "brain-mri" in done.stdout, done.stderr
    loaded = "from wellposed import datasets as d; print(*(getattr(d, n) for n in d.__all__))"
    done = python(WITHOUT.format(names=(*names, "typer", "rich")) + loaded)
    assert "load_nifti" in done.stdout, done.stderr


def test_what_is_not_installed_names_its_extra(tmp_path, monkeypatch):
    from wellposed.priors.training import Trainer

    for package in ("nibabel", "pydicom", "accelerate", "typer"):
        monkeypatch.setitem(sys.modules, package, None)
    for name, content in (("a.nii.gz", b""), ("a.dcm", b"\0" * 128 + b"DICM")):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(
        errors.MissingPackageError, match=r"a\.nii\.gz: needs nibabel; .*\[nifti\]"
    ):
        datasets.load_nifti(tmp_path / "a.nii.gz")
    with pytest.raises(ImportError, match=r"a\.dcm: needs pydicom; .*\[dicom\]"):
        datasets.read_dicom_series(tmp_path / "a.dcm")
    with pytest.raises(
        errors.MissingPackageError, match=r"training: needs accelerate; .*\[train\]"
    ):
        Trainer(None)
    done = python(WITHOUT.format(names=("typer",)) + "from wellposed.__main__ import main; main()")
    assert done.returncode == 1
    assert "needs typer; pip install 'wellposed[cli]'" in done.stderr


def test_every_public_name_resolves():
    for module in (wellposed, inversion, operators, priors, solvers, datasets):
        for name in module.__all__:
            getattr(module, name)


def test_unknown_attributes_fail_as_usual():
    with pytest.raises(AttributeError, match="nothing"):
        _ = wellposed.nothing
    with pytest.raises(AttributeError, match="nothing"):
        _ = operators.nothing


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="not in a checkout")
def test_the_folder_datasets_refuses_its_bare_name():
    done = python("import datasets", cwd=ROOT)
    assert "wellposed.datasets" in done.stderr


def wheel(source, folder):
    """Build a wheel and return it."""
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source))
    subprocess.run(pip, check=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_everything_and_nothing_else(tmp_path):
    path = wheel(ROOT, tmp_path)
    names = zipfile.ZipFile(path).namelist()
    assert all(name.startswith("wellposed") for name in names)
    for folder in ("solvers", "operators", "priors", "datasets"):
        sources = {p.name for p in (ROOT / folder).glob("*.py")}
        held = {Path(n).name for n in names if n.startswith(f"wellposed/{folder}/")}
        assert sources <= held
    assert "wellposed/py.typed" in names
    held = {Path(n).parent.name for n in names if n.endswith("model.safetensors")}
    assert held == {"natural", "brain-mri", "ct"}
    assert any(n.endswith("benchmark/cards/mri-4x.toml") for n in names)
    assert {f"wellposed/report/report.{kind}" for kind in ("html.j2", "css", "js")} <= set(names)
    assert path.stat().st_size < 40e6


@pytest.mark.slow
def test_the_other_priors_are_found_where_their_wheel_is_installed(tmp_path, monkeypatch):
    path = wheel(ROOT / "packaging" / "priors", tmp_path)
    assert importlib.metadata.version("wellposed") in path.name
    with zipfile.ZipFile(path) as content:
        content.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(registry, "WEIGHTS", tmp_path / "none")
    assert set(registry.shipped()) == set(registry.APART)
    assert priors.load("haze-rf").channels == 1


def test_a_prior_that_is_not_installed_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "WEIGHTS", tmp_path)
    monkeypatch.setattr(registry, "OTHERS", "no_such_package")
    with pytest.raises(errors.FileError, match="pip install wellposed-priors"):
        priors.load("haze-rf")


def test_the_version_and_the_dependencies_are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    recipe = (ROOT / "packaging/conda/recipe.yaml").read_text()
    assert f"version: {wellposed.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f'version: "{wellposed.__version__}"\n' in recipe
    elsewhere = {"torch": "pytorch", "python-gdcm": "gdcm", "matplotlib": "matplotlib-base"}
    elsewhere["huggingface-hub"] = "huggingface_hub"
    extras = project["optional-dependencies"]
    needed = [n for name in ("cli", "dicom", "nifti", "train") for n in extras[name]]
    needed = [*project["dependencies"], *needed]
    wanted = [re.match(r"([a-z0-9-]+)(.*)", each).groups() for each in needed]
    run = recipe.split("  run:\n")[1].split("tests:")[0]
    found = [line.strip(" -") for line in run.splitlines() if ">=" in line]
    assert found[1:] == [f"{elsewhere.get(name, name)} {bound}" for name, bound in wanted]


def test_the_readme_of_the_package_index_has_absolute_links():
    metadata = importlib.metadata.metadata("wellposed")
    text = metadata.get_payload() or metadata["Description"]
    assert "# wellposed" in text
    assert not re.findall(r"\]\((?!https?:|#)[^)]*\)", text)
