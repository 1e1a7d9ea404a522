"""Lists the benchmarks, or runs one with its options.

python -m benchmarks [NAME [OPTIONS]]
"""

import ast
import runpy
import sys
from pathlib import Path

from wellposed.errors import ArgumentError

HERE = Path(__file__).parent


def scripts() -> dict[str, str]:
    """Return the docstring of each script that can be run, by name."""
    found = {}
    for path in sorted(HERE.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if path != Path(__file__) and 'if __name__ == "__main__":' in source:
            found[path.stem] = ast.get_docstring(ast.parse(source)) or ""
    return found


def listing() -> str:
    """Return a line for each script: its name and what it measures."""
    told = {name: text.splitlines()[0] if text else "" for name, text in scripts().items()}
    width = max(map(len, told))
    return "\n".join(f"{name:{width}}  {text}" for name, text in told.items())


def main(arguments: list[str]) -> None:
    """Run the script that the first argument names, with the others, or list all."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\n{listing()}")
        return
    name, *rest = arguments
    if name not in scripts():
        raise ArgumentError(f"NAME: got {name!r}, accepted: {', '.join(scripts())}")
    # Scripts import their neighbours, and are called as if by their own command.
    sys.path.insert(0, str(HERE))
    sys.argv = [str(HERE / f"{name}.py"), *rest]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ArgumentError as error:
        sys.exit(str(error))
