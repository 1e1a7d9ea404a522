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
from wellposed import datasets, inversion, operators, priors, solvers

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


@pytest.mark.slow
def test_the_wheel_holds_everything_and_nothing_else(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert all(name.startswith("wellposed") for name in names)
    for folder in ("solvers", "operators", "priors", "datasets"):
        sources = {p.name for p in (ROOT / folder).glob("*.py")}
        held = {Path(n).name for n in names if n.startswith(f"wellposed/{folder}/")}
        assert sources <= held
    assert "wellposed/py.typed" in names
    assert any(n.endswith("brain-mri/model.safetensors") for n in names)
    assert {f"wellposed/report/report.{kind}" for kind in ("html.j2", "css", "js")} <= set(names)


def test_the_version_and_the_dependencies_are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    recipe = (ROOT / "packaging/conda/recipe.yaml").read_text()
    assert f"version: {wellposed.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f'version: "{wellposed.__version__}"\n' in recipe
    elsewhere = {"torch": "pytorch", "python-gdcm": "gdcm", "matplotlib": "matplotlib-base"}
    elsewhere["huggingface-hub"] = "huggingface_hub"
    wanted = [re.match(r"([a-z0-9-]+)(.*)", each).groups() for each in project["dependencies"]]
    run = recipe.split("  run:\n")[1].split("tests:")[0]
    found = [line.strip(" -") for line in run.splitlines() if ">=" in line]
    assert found[1:] == [f"{elsewhere.get(name, name)} {bound}" for name, bound in wanted]


def test_the_readme_of_the_package_index_has_absolute_links():
    metadata = importlib.metadata.metadata("wellposed")
    text = metadata.get_payload() or metadata["Description"]
    assert "# wellposed" in text
    assert not re.findall(r"\]\((?!https?:|#)[^)]*\)", text)
