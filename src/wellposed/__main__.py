"""``python -m wellposed``, which launchers of several processes use."""

from wellposed.cli.app import main

if __name__ == "__main__":
    main()
