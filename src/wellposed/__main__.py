"""``python -m wellposed``, for launchers of several processes."""

from wellposed.cli.app import main

if __name__ == "__main__":
    main()
