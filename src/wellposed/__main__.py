"""``wellposed`` and ``python -m wellposed``, for launchers of several processes too."""

import sys


def main() -> None:
    """Run the command, or say what it needs."""
    try:
        from wellposed.cli.app import main as command
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f"wellposed: needs {error.name}; pip install 'wellposed[cli]'")
    command()


if __name__ == "__main__":
    main()
