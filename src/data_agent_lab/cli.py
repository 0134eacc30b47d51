"""The `data-agent` command: runs the lab's commands and turns errors into messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from data_agent import __version__
from data_agent.errors import DataAgentError

_MISUSED = 2
_INTERRUPTED = 130
_LAB = (
    *("datasets", "faster_coco_eval", "filelock", "matplotlib", "PIL", "pyarrow", "rich"),
    *("safetensors", "scipy", "sklearn", "tyro"),
)
_EXTRAS = {
    **dict.fromkeys(_LAB, "lab"),
    **dict.fromkeys(("accelerate", "peft", "transformers", "trl"), "lab,trl"),
    "reasoning_gym": "reasoning",
}


def main(argv: Sequence[str] | None = None, *, owns_process: bool = False) -> int:
    """Run a command; returns its exit code.

    0: done. 1: some runs of a comparison failed. 2: what was asked for cannot be done. 75: the
    time limit was over, and 130: stopped by Ctrl-C; `--resume` goes on.

    Args:
        argv: the command line without the program's name; None takes the process's.
        owns_process: whether nothing runs behind it, so that it may end the process itself.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["--version"]:
        print(f"data-agent {__version__}")
        return 0
    try:
        return _run(argv)
    except DataAgentError as error:
        number = os.environ.get("RANK", "0")
        name = "data-agent" if number == "0" else f"data-agent, rank {number}"
        print(f"{name}: {error}", file=sys.stderr)
        if owns_process and "WORLD_SIZE" in os.environ:
            # Another rank may hang, and what waits for it in torch's threads can abort the process
            # while it is taken down, as soon as `error` lets go of it: other code, no message.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(_MISUSED)
        return _MISUSED
    except KeyboardInterrupt:
        print("data-agent: interrupted.", file=sys.stderr)
        return _INTERRUPTED
    except ModuleNotFoundError as error:
        if (extras := _EXTRAS.get((error.name or "").partition(".")[0])) is None:
            raise
        print(
            f"data-agent: the command needs {error.name}, which is not installed. "
            f"In a checkout of data_agent: pip install '.[{extras}]'.",
            file=sys.stderr,
        )
        return _MISUSED


def _run(argv: Sequence[str]) -> int:
    from data_agent_lab.commands import parse

    before = list(sys.path)
    sys.path.append(str(Path.cwd()))  # the user's own methods, after everything that is installed
    try:
        command = parse(argv)
        from data_agent_lab.actions import do  # imports torch, for which mistakes need not wait

        return do(command, argv)
    finally:
        sys.path[:] = before


def run_process() -> NoReturn:
    """What `data-agent` and `python -m data_agent_lab.cli` are."""
    sys.exit(main(owns_process=True))


if __name__ == "__main__":  # torchrun -m data_agent_lab.cli
    run_process()
