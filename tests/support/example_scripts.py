"""The example scripts that are recipes, on several ranks."""

import importlib
import os
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path


def share_a_run(rank: int, script: Path, folder: Path, argv: list[str]) -> str:
    """A script's run on the ranks there are, in a folder; what this one printed."""
    os.chdir(folder)
    sys.path.insert(0, str(script.parent))
    with redirect_stdout(StringIO()) as printed:
        importlib.import_module(script.stem).main(argv)
    return printed.getvalue()
