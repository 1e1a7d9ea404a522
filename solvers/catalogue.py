"""The solvers by the names that papers give them."""

from wellposed import solvers
from wellposed.solvers.base import Solver


def named_solvers() -> dict[str, type[Solver]]:
    """Return all solvers that `wellposed.solvers` offers, by name."""
    # Functions, in lower case, load more than they tell.
    members = [getattr(solvers, name) for name in dir(solvers) if name[0].isupper()]
    classes = [m for m in members if isinstance(m, type) and issubclass(m, Solver)]
    return {cls.name: cls for cls in classes if cls.name}
