"""placeholder"""

from pathlib import Path

DEFAULT_ARCHIVE = Path("x")
DEFAULT_TAG = "x"


def build(a, b): ...
