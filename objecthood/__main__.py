"""`python -m objecthood` is the command `objecthood`."""

import sys

from objecthood.cli.main import entry

if __name__ == "__main__":
    sys.exit(entry())
