"""`python -m uringzc` is the `uringzc` command."""

from uringzc.cli import main

main(prog_name="uringzc")
