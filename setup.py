"""Map the four top-level folders into the package, and make the links of the README absolute.

Everything else is in pyproject.toml.
"""

import re
import tomllib
from pathlib import Path

from setuptools import find_packages, setup

NAME, FOLDERS = "wellposed", ("solvers", "operators", "priors", "datasets")
HERE = Path(__file__).parent


def readme() -> str:
    """Return the README for a package index, which knows no files beside it."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    home = project["urls"]["Homepage"]
    text = (HERE / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?:|#)", rf"\g<1>{home}/raw/main/", text)
    return re.sub(r"(\]\()(?!https?:|#)", rf"\g<1>{home}/blob/main/", text)


setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    package_dir={NAME: f"src/{NAME}", **{f"{NAME}.{folder}": folder for folder in FOLDERS}},
    packages=find_packages("src")
    + [
        f"{NAME}.{package}"
        for package in find_packages(include=[p for f in FOLDERS for p in (f, f"{f}.*")])
    ],
)
