"""Names of a package that load their module on first use."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attributes(package: str, home: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package.

    Args:
        package: its name.
        home: for each of its modules the names that the package offers from there.
    """
    modules = {name: module for module, names in home.items() for name in names}

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return find
