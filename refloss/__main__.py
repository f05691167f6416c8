"""`python -m refloss` is the `refloss` command."""

from refloss.cli.main import run

if __name__ == "__main__":
    run()
