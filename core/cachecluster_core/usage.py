"""Bad flags end every command of the project alike: the usage, the reason, and exit code 64 (EX_USAGE, sysexits.h)."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

EXIT_USAGE = 64


class UsageParser(argparse.ArgumentParser):
    """An argument parser that exits with 64 instead of 2."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the reason, and exit."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")
