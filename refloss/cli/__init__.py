"""The `refloss` command."""
