"""`python -m objecthood` is the command `objecthood`."""

import sys

from objecthood.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
