"""Map the four top-level folders into the package; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

NAME, FOLDERS = "wellposed", ("solvers", "operators", "priors", "datasets")

setup(
    package_dir={NAME: f"src/{NAME}", **{f"{NAME}.{folder}": folder for folder in FOLDERS}},
    packages=find_packages("src")
    + [
        f"{NAME}.{package}"
        for package in find_packages(include=[p for f in FOLDERS for p in (f, f"{f}.*")])
    ],
)
