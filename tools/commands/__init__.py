"""One file per command of the command line; `tools/cli.py` lists them."""
