"""Where a run ran: machine, versions, commit and command, so that its numbers can be judged."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_agent import __version__
from data_agent.runtime import distributed


def describe_environment(device: str) -> dict[str, Any]:
    """Machine, versions, commit and command of this process, for JSON.

    Args:
        device: where the model trains, for example "cpu" or "cuda:0".
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit_of_sources(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "num_cpus": num_cpus(),
        "num_ranks": distributed.world_size(),
        "num_threads": torch.get_num_threads(),
        "device": device,
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "data_agent": __version__,
    }


def num_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    """The processor's name as Linux tells it, else what Python knows."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def commit_of_sources() -> str | None:
    """The commit of this package's sources, with "-dirty" if changed; None outside a checkout."""
    source = Path(__file__)

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", *arguments]
            done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True)
        except OSError:  # git is missing
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may lie inside another repository: ours is one that tracks this file.
    if git("ls-files", "--error-unmatch", source.name) is None:
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
