"""The solvers by the names that papers give them."""

from wellposed import solvers
from wellposed.errors import require_choice
from wellposed.solvers.base import Solver


def named_solvers() -> dict[str, type[Solver]]:
    """Return all solvers that `wellposed.solvers` offers, by name."""
    # Functions, in lower case, load more than they tell.
    members = [getattr(solvers, name) for name in dir(solvers) if name[0].isupper()]
    classes = [m for m in members if isinstance(m, type) and issubclass(m, Solver)]
    return {cls.name: cls for cls in classes if cls.name}


def solver_named(argument: str, name: str) -> type[Solver]:
    """Return a solver by its name or by an old spelling of it.

    Raises:
        UnknownNameError: no such solver; the nearest is suggested.
    """
    classes = named_solvers()
    old = {spelling: cls.name for cls in classes.values() for spelling in cls.old_names}
    return classes[require_choice(argument, old.get(name, name), classes)]
