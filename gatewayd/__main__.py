"""`python -m gatewayd`: the same as the `gatewayd` command."""

from gatewayd.cli import run

if __name__ == "__main__":
    run()
