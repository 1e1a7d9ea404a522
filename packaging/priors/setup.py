"""Build the wheel of the priors that the main one leaves out, from the same tree.

    pip wheel --no-deps packaging/priors

The package ``wellposed_priors`` holds folders of weights alone.
"""

import re
import shutil
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "priors" / "weights"
PACKAGE = "wellposed_priors"


def left_out() -> list[Path]:
    """Return the folders of weights that are not in the main wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    data = project["tool"]["setuptools"]["package-data"]["wellposed.priors"]
    main = {pattern.split("/")[1] for pattern in data}
    folders = sorted(path.parent for path in WEIGHTS.rglob("model.safetensors"))
    return [folder for folder in folders if folder.relative_to(WEIGHTS).parts[0] not in main]


class CopyWeights(build_py):
    """Copies the weights into the package."""

    def run(self) -> None:
        """Build as usual, then copy."""
        super().run()
        target = Path(self.build_lib) / PACKAGE
        for folder in left_out():
            shutil.copytree(folder, target / folder.name, dirs_exist_ok=True)


def version() -> str:
    """Return the version of the main package."""
    text = (ROOT / "src" / "wellposed" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    assert found is not None
    return found[1]


setup(version=version(), packages=[PACKAGE], cmdclass={"build_py": CopyWeights})
