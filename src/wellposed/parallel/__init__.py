"""One volume or one batch shared by several processes."""
