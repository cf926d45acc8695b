"""`python -m worker.lint [--format FORMAT] PATH…`: the same as `kzpark validate`."""

from __future__ import annotations

import argparse
import sys

from worker.lint.cli import FORMATS, run_validate


def main() -> int:
    """Parse the command line and run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="kzpark validate", description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="file, folder, or - for stdin")
    parser.add_argument("--format", choices=FORMATS, default="text")
    options = parser.parse_args()
    return run_validate(options.paths, options.format)


if __name__ == "__main__":
    sys.exit(main())
