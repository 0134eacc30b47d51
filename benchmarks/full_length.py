"""Full length: CIFAR-10 for 200 epochs, clean and with 40 % wrong labels, then Tiny-ImageNet.

    python benchmarks/full_length.py --minutes 25 --output runs/full-length

ResNet-18, keep ratio 0.5: full, full-short, random, InfoBatch and the paper's agent; and, with 500
trusted rows that every method has, full, full-short, random and data-agent. A call ends after
--minutes with exit code 75, and the same call goes on, exactly: repeat it until it says 0.

    until python benchmarks/full_length.py --minutes 25; do [ $? = 75 ] || break; done

Where a machine is lent for a while only, carry --output from one to the next. A finished run keeps
no checkpoint, so it is a few megabytes; the run that was stopped has one, of 90 megabytes for this
model and its momentum, and one more before that. Leave its folder behind if that is too much: it
then begins anew, and nothing else does.

What else is given goes to every comparison (--seeds 5, --device cuda:1). Data come from the hub, or
from folders: --cifar10 data/cifar10. None of this was run here at this size.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # where the comparisons find the module ablations

from data_agent_lab.actions import DONE, OUT_OF_TIME
from data_agent_lab.cli import main as data_agent

PLAIN = "full,full-short,random,infobatch,ablations:as-published"
TRUSTED = "full,full-short,random,data-agent"
NOISY = ("--label-noise", "0.4")


def main(argv: Sequence[str] | None = None) -> int:
    """Go on with the first comparison that is not finished, and with the next, while there is time.

    Returns:
        0 if all are finished, 75 if there was no time left, what `compare` returned if it failed.
    """
    options, others = arguments().parse_known_args(argv)
    end = time.monotonic() + 60 * options.minutes
    for name, words in comparisons(options.cifar10, options.tiny_imagenet):
        left = (end - time.monotonic()) / 60
        if left <= 0:
            return OUT_OF_TIME
        output = options.output / name
        slice_ = ("--output", str(output), "--resume", "--time-limit", f"{left:.3f}")
        command = ["compare", *words, *others, *slice_]
        print(shlex.join(["data-agent", *command]), flush=True)
        code = data_agent(command)
        drop_checkpoints(output)
        if code != DONE:
            return code
    return DONE


def arguments() -> argparse.ArgumentParser:
    """What the script takes itself."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=25, help="how long a call may take")
    parser.add_argument("--output", type=Path, default=Path("runs/full-length"))
    parser.add_argument("--cifar10", default="uoft-cs/cifar10", help="hub name or folder")
    parser.add_argument("--tiny-imagenet", default="zh-plus/tiny-imagenet", help="the same")
    return parser


def comparisons(cifar10: str, tiny_imagenet: str) -> Iterator[tuple[str, Sequence[str]]]:
    """The comparisons in their order: a folder's name, and what is typed behind `compare`."""
    shared = ("--task", "image", "--precision", "bf16", "--jobs", "1", "--keep-ratios", "0.5")
    small = (*shared, "--data", cifar10)
    large = (*shared, "--data", tiny_imagenet, "--image-size", "64", "--epochs", "100")
    for data, words in (("cifar10", small), ("tiny-imagenet", large)):
        for labels, noise in (("clean", ()), ("noise40", NOISY)):
            yield f"{data}-{labels}", (*words, *noise, "--methods", PLAIN)
            trusted = ("--trusted-rows", "500", "--methods", TRUSTED)
            yield f"{data}-{labels}-trusted", (*words, *noise, *trusted)


def drop_checkpoints(output: Path) -> None:
    """Delete the checkpoints of finished runs: results and metrics are all that reports read."""
    for result in output.rglob("result.json"):
        for path in result.parent.glob("checkpoint*"):
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
