"""`python -m mlopt` is `mlopt`."""

from mlopt.cli import main

main()
