"""What a result was computed with."""

import platform

import torch

from wellposed import __version__


def versions() -> dict[str, str]:
    """Return the versions of the package, of torch and Python, and the platform, by name."""
    return {
        "wellposed": __version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
