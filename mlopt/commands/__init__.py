"""One file per verb of the command line; `mlopt/cli.py` imports only the one that was typed."""
