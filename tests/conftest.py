"""Every test leaves the process as it found it."""

import gc
import threading

import pytest
import torch
import torch.distributed as dist

torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings


def pytest_collection_finish():
    """Exempt what imports made from garbage collection.

    It stays for good, and is a million objects, which each run of a Trainer looks through.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _leaves_no_trace():
    """Fail a test that leaves a process group or threads behind."""
    before = set(threading.enumerate())
    yield
    assert not (dist.is_available() and dist.is_initialized()), "a process group is still open"
    left = [t for t in threading.enumerate() if t not in before and not t.daemon]
    for thread in left:  # a pool told to end without waiting, as Transformers does, needs a moment
        thread.join(timeout=10)
    left = [t for t in left if t.is_alive()]
    assert not left, f"threads still run: {left}"
