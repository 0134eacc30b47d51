"""The kinds of "no": every error of the library is a `DataAgentError`."""

__all__ = [
    "CheckpointError",
    "DataAgentError",
    "DataAgentWarning",
    "InputError",
    "LostRankError",
    "StateError",
]


class DataAgentError(Exception):
    """Base of everything the library raises on purpose."""


class InputError(DataAgentError, ValueError):
    """An argument, a batch or a file that was handed in cannot be used; our state is as before."""


class StateError(DataAgentError, RuntimeError):
    """A call came at the wrong time: before an epoch began, twice, or not at all."""


class LostRankError(StateError):
    """Another rank died, hangs, or makes other calls: nothing more can be asked of it."""


class CheckpointError(DataAgentError, ValueError):
    """A saved state is damaged, foreign, newer than this version, or of another run."""


class DataAgentWarning(UserWarning):
    """Training goes on, but not in the way that was probably meant."""
