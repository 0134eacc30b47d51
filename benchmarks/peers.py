"""Which of our laws do released peers keep? DataCull from PyPI, InfoBatch from its repository.

Neither is a part of ours or copied here; an environment that sees ours fetches them (OURS is the
site-packages folder of our environment):

    python3 -m venv /tmp/peers
    echo $OURS > /tmp/peers/lib/python3.11/site-packages/ours.pth
    /tmp/peers/bin/pip install datacull==1.0.2
    git clone https://github.com/NUS-HPC-AI-Lab/InfoBatch /tmp/InfoBatch
    OMP_NUM_THREADS=1 /tmp/peers/bin/python benchmarks/peers.py --infobatch /tmp/InfoBatch

It prints a table and writes benchmarks/results/peers.json. The laws are those of
`data_agent.testing.LAWS`, through which ours are run. Peers have no common interface, so that each
is asked the same in its own words: what its sampler gives, what its loader delivers, what it does
with losses. Laws on saved states do not apply to what saves none, which the law `resume` says.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).parents[1]
# datacull.py beside this file must not hide the package.
sys.path[:] = [
    str(ROOT / "src"),
    *(path for path in sys.path if Path(path).resolve() != ROOT / "benchmarks"),
]

from data_agent import make_selector  # noqa: E402
from data_agent.testing import LAWS  # noqa: E402
from data_agent_lab.runs.environment import describe_environment  # noqa: E402

NUM_SAMPLES, EPOCHS, BATCH_SIZE = 203, 16, 16
LABELS = torch.arange(NUM_SAMPLES) % 4
OURS = ("random", "rcap", "infobatch-published")
KEPT, BROKEN, NOT_APPLICABLE = "kept", "broken", "-"


class Labelled(Dataset):
    """Samples that are their own position, and a label."""

    targets = LABELS.tolist()

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> tuple[int, int]:
        return int(index), self.targets[index]


def losses_of(index: Tensor, epoch: int) -> Tensor:
    """What a model could have lost: a function of sample and epoch alone."""
    draws = np.random.default_rng([epoch, 1]).random(NUM_SAMPLES)
    return torch.from_numpy(draws).float()[index] * (1 + index % 7)


class RS2:
    """DataCull's repeated random subsets, as its documentation uses them."""

    learns, takes_index = False, True

    def __init__(self, keep_ratio: float) -> None:
        import datacull

        self.loader = datacull.RS2DataLoader(
            datacull.DCDataset(Labelled()), keep_ratio, batch_size=BATCH_SIZE
        )

    def begin(self) -> Tensor:
        """Begin an epoch: its samples."""
        self.loader.resample(None)
        return torch.tensor(self.loader.subset_indices)

    def order(self) -> list[int]:
        """The samples of the epoch that began, in the order of the sampler, asked anew."""
        return [*self.loader.sampler]

    def batches(self) -> Iterator[Tensor]:
        """The index of each batch that the loader delivers."""
        return (batch[-1] for batch in self.loader)

    def learn(self, index: Tensor, losses: Tensor, epoch: int) -> None:
        """Take the losses of a batch."""


class RCAP(RS2):
    """DataCull's RCAP: importance from a log of losses, then its loader."""

    learns = True

    def __init__(self, keep_ratio: float) -> None:
        import datacull

        self.folder = tempfile.TemporaryDirectory()
        data = datacull.DCDataset(Labelled())
        self.logger = datacull.DCLogger(f"{self.folder.name}/")
        self.importance = datacull.RCAPImportance(data, self.logger, beta=1.0)
        self.loader = datacull.RCAPDataLoader(data, keep_ratio, batch_size=BATCH_SIZE)

    def begin(self) -> Tensor:
        """Begin an epoch: what was logged is read, and its samples are drawn."""
        self.loader.resample(self.importance.compute_importance())
        return torch.tensor(self.loader.subset_indices)

    def learn(self, index: Tensor, losses: Tensor, epoch: int) -> None:
        """Log the losses of a batch."""
        self.logger.log_metric(epoch, index, losses)


class InfoBatch:
    """InfoBatch as its README uses it: a data set that is also the judge, and its sampler."""

    learns, takes_index = True, False

    def __init__(self, keep_ratio: float) -> None:
        from infobatch import InfoBatch as Released

        self.data = Released(Labelled(), EPOCHS, prune_ratio=1 - keep_ratio)
        self.sampler = self.data.sampler

    def begin(self) -> Tensor:
        """Begin an epoch, as asking its sampler does: its samples."""
        return torch.tensor(self.order())

    def order(self) -> list[int]:
        """What its sampler says, asked anew."""
        return [int(index) for index in self.sampler]

    def batches(self) -> Iterator[Tensor]:
        """The index of each batch that a loader delivers."""
        loader = DataLoader(self.data, batch_size=BATCH_SIZE, sampler=self.sampler)
        for position, _ in loader:
            yield position

    def learn(self, index: Tensor, losses: Tensor, epoch: int) -> None:  # noqa: ARG002
        """Take the losses of a batch, whose index its loader would have noted."""
        self.data.set_active_indices(index)
        self.data.update(losses)


PEERS: Mapping[str, Callable[[float], Any]] = {
    "DataCull RS2": RS2,
    "DataCull RCAP": RCAP,
    "InfoBatch": InfoBatch,
}
Verdict = tuple[str, str]


def run(make: Callable[[float], Any], keep_ratio: float, seed: int = 0) -> list[Tensor]:
    """Train to the end; the samples of each epoch, in order."""
    np.random.seed(seed)  # noqa: NPY002 - the only seed that these peers know
    peer, epochs = make(keep_ratio), []
    for epoch in range(EPOCHS):
        epochs.append(peer.begin())
        for index in epochs[-1].split(BATCH_SIZE):
            peer.learn(index, losses_of(index, epoch), epoch)
    return epochs


def exact_budget(make: Callable[[float], Any]) -> Verdict:
    """K distinct valid samples in every epoch."""
    told: list[str] = []
    for keep_ratio in (0.3, 0.5, 1.0):
        epochs = run(make, keep_ratio)
        sizes = sorted({len(index) for index in epochs})
        expected = math.floor(keep_ratio * NUM_SAMPLES + 0.5)
        if any(len(index.unique()) < len(index) for index in epochs):
            return BROKEN, "an epoch holds a sample twice"
        if sizes != [expected]:
            told.append(f"{sizes[0]} to {sizes[-1]} samples for {expected}")
    if told and make is InfoBatch:
        return NOT_APPLICABLE, f"its rule has no budget: {'; '.join(told)}"
    return (BROKEN, "; ".join(told)) if told else (KEPT, "")


def coverage(make: Callable[[float], Any]) -> Verdict:
    """The first N visits see every sample."""
    epochs = run(make, 0.4)
    visits, seen = 0, set[int]()
    for index in epochs:
        visits += len(index)
        seen |= {*index.tolist()}
        if visits >= NUM_SAMPLES:
            break
    missed = NUM_SAMPLES - len(seen)
    return (
        (BROKEN, f"{visits} visits of {NUM_SAMPLES} samples missed {missed}")
        if missed
        else (
            KEPT,
            "",
        )
    )


def same_seed_same_selection(make: Callable[[float], Any]) -> Verdict:
    """One seed, one run; another seed, another."""
    first, again, other = ([i.tolist() for i in run(make, 0.5, seed)] for seed in (5, 5, 6))
    if first != again:
        return BROKEN, "two runs with one seed differ"
    return (BROKEN, "another seed gives the same selections") if first == other else (KEPT, "")


def select_is_pure(make: Callable[[float], Any]) -> Verdict:
    """Asking twice for an epoch's order gives the same, as loaders do."""
    peer = make(0.5)
    peer.begin()
    same = peer.order() == peer.order()
    return (KEPT, "") if same else (BROKEN, "asked twice, the sampler begins another epoch")


def loader_delivers_the_selection(make: Callable[[float], Any]) -> Verdict:
    """Each selected sample once, in as many batches as the loader says, the same in every epoch."""
    peer, counts = make(0.5), []
    most = 4 * NUM_SAMPLES // BATCH_SIZE
    for epoch in range(4):
        chosen = peer.begin() if make is not InfoBatch else None
        batches = [*islice(peer.batches(), most)]
        if len(batches) == most:
            return BROKEN, f"with torch {torch.__version__} an epoch does not end"
        index = torch.cat(batches)
        if chosen is not None and index.tolist() != chosen.tolist():
            return BROKEN, "it delivered other samples"
        counts.append(len(batches))
        for batch in batches:
            peer.learn(batch, losses_of(batch, epoch), epoch)
    changing = f"epochs have {min(counts)} to {max(counts)} batches"
    return (BROKEN, changing) if len({*counts}) > 1 else (KEPT, "")


def no_global_randomness(make: Callable[[float], Any]) -> Verdict:
    """NumPy's global generator stands still."""
    peer = make(0.5)
    before = repr(np.random.get_state())  # noqa: NPY002
    peer.begin()
    moved = before != repr(np.random.get_state())  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    one = make(0.5)
    one.begin()
    first = np.random.random()  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    two = make(0.5)
    two.begin()
    if first == np.random.random():  # noqa: NPY002
        return BROKEN, "it seeds NumPy's global generator, the same for whatever the user seeded"
    return (BROKEN, "it draws from NumPy's global generator") if moved else (KEPT, "")


def resume(make: Callable[[float], Any]) -> Verdict:
    """A run that was stopped goes on exactly."""
    peer = make(0.5)
    parts = [peer, *vars(peer).values()]
    own = [p for p in parts if hasattr(type(p), "state_dict") and not isinstance(p, DataLoader)]
    return (KEPT, "") if own else (BROKEN, "it has no state to save")


def refuses_bad_feedback(make: Callable[[float], Any]) -> Verdict:
    """Losses that cannot be right raise at once."""
    if not make(0.5).learns:
        return NOT_APPLICABLE, "it takes no losses"
    index = torch.arange(BATCH_SIZE)
    good = losses_of(index, 0)
    nan = good.clone()
    nan[1] = torch.nan
    bad = {
        "an index beyond the data set": (index + NUM_SAMPLES, good),
        "a negative index": (index - BATCH_SIZE, good),
        "an index of another length": (index[1:], good),
        "losses of two columns": (index, good.repeat(2, 1).T),
        "a loss that is not a number": (index, nan),
    }
    accepted: list[str] = []
    for what, (positions, losses) in bad.items():
        peer = make(0.5)
        if "index" in what and not peer.takes_index:
            continue
        peer.begin()
        try:
            peer.learn(positions, losses.clone(), 0)
        except Exception:  # of whatever kind: it was refused
            continue
        accepted.append(what)
    return (BROKEN, f"accepted: {', '.join(accepted)}") if accepted else (KEPT, "")


def forgotten_calls_are_errors(make: Callable[[float], Any]) -> Verdict:
    """An epoch of which no losses came, or only some, does not pass in silence."""
    if not make(0.5).learns:
        return NOT_APPLICABLE, "it takes no losses"
    silent: list[str] = []
    for what, num_batches in (("an epoch without losses", 0), ("missed batches", 2)):
        peer = make(0.5)
        first = peer.begin()
        for index in first.split(BATCH_SIZE)[:num_batches]:
            peer.learn(index, losses_of(index, 0), 0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                peer.begin()
            except Exception:  # of whatever kind: it was told
                continue
        if not caught:
            silent.append(what)
    return (BROKEN, f"silent: {', '.join(silent)}") if silent else (KEPT, "")


CHECKS: Mapping[str, Callable[[Callable[[float], Any]], Verdict]] = {
    check.__name__: check
    for check in (
        *(exact_budget, coverage, same_seed_same_selection, select_is_pure),
        *(loader_delivers_the_selection, no_global_randomness, resume),
        *(refuses_bad_feedback, forgotten_calls_are_errors),
    )
}


def leaves_others_alone(make: Callable[[float], Any], before: Callable[..., Any]) -> Verdict:
    """Importing changes no other library, and losses stay the caller's. No law: ours never did."""
    told: list[str] = []
    if torch.utils.data.dataloader._BaseDataLoaderIter.__next__ is not before:
        told.append("importing it replaces __next__ of every DataLoader of the process")
    peer = make(0.5)
    given, used = [], []
    for epoch in range(3):
        for index in peer.begin().split(BATCH_SIZE):
            given.append(losses_of(index, epoch))
            used.append(given[-1].clone())
            peer.learn(index, used[-1], epoch)
    if not torch.equal(torch.cat(given), torch.cat(used)):
        told.append("it scales the caller's losses in place")
    return (BROKEN, "; ".join(told)) if told else (KEPT, "")


def ours(name: str) -> dict[str, Verdict]:
    """The laws themselves, on a method of ours."""
    options = {"labels": LABELS} if name == "rcap" else {}
    found: dict[str, Verdict] = {}
    for law, check in LAWS.items():
        try:
            check(partial(make_selector, name, **options))
        except AssertionError as error:
            found[law] = BROKEN, str(error)
        else:
            found[law] = KEPT, ""
    return found


def verdicts(infobatch: Path) -> dict[str, dict[str, Verdict]]:
    """By whom, by law."""
    found = {f"ours, {name}": ours(name) for name in OURS}
    for name, make in PEERS.items():
        if make is InfoBatch:
            sys.path.append(str(infobatch))
        before = torch.utils.data.dataloader._BaseDataLoaderIter.__next__
        make(0.5)  # imports it
        found[name] = {law: check(make) for law, check in CHECKS.items()}
        found[name]["(no law) leaves others alone"] = leaves_others_alone(make, before)
    return found


def main() -> None:
    """Check, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--infobatch", type=Path, required=True, help="a clone of its repository")
    path = parser.parse_args().infobatch
    torch.set_num_threads(1)
    found = verdicts(path)
    laws = dict.fromkeys(law for by_law in found.values() for law in by_law)
    none = NOT_APPLICABLE, ""
    commit = subprocess.run(
        ["git", "-C", str(path), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    result = {
        "environment": {**describe_environment("cpu"), "command": "benchmarks/peers.py"},
        "versions": {"datacull": importlib.metadata.version("datacull"), "infobatch": commit},
        "laws": [
            {"law": law, **{who: by_law.get(law, none)[0] for who, by_law in found.items()}}
            for law in laws
        ],
        "why": [
            {"who": who, "law": law, "outcome": outcome, "what": what}
            for who, by_law in found.items()
            for law, (outcome, what) in by_law.items()
            if what
        ],
    }
    for row in (*result["laws"], *result["why"]):
        print("  ".join(map(str, row.values())))
    target = ROOT / "benchmarks" / "results" / "peers.json"
    target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
