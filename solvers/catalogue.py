"""The solvers by their names in the papers."""

from wellposed import solvers
from wellposed.solvers.base import Solver


def named_solvers() -> dict[str, type[Solver]]:
    """Return all solvers of `wellposed.solvers`, by name."""
    # Names in lower case are functions, whose modules are slow to load.
    members = [getattr(solvers, name) for name in dir(solvers) if name[0].isupper()]
    classes = [m for m in members if isinstance(m, type) and issubclass(m, Solver)]
    return {cls.name: cls for cls in classes if cls.name}
