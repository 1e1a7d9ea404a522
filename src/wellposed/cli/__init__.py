"""The ``wellposed`` command."""
