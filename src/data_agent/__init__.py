"""Data Agent: a learned agent decides, while a model trains, which samples to train on next."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from data_agent._version import __version__ as __version__

if TYPE_CHECKING:
    from data_agent.agent.agent import DataAgent as DataAgent
    from data_agent.agent.config import DataAgentConfig as DataAgentConfig
    from data_agent.budget.schedule import SelectionSchedule as SelectionSchedule
    from data_agent.errors import DataAgentError as DataAgentError
    from data_agent.loading.indexed import IndexedDataset as IndexedDataset
    from data_agent.loading.loader import selection_loader as selection_loader
    from data_agent.loading.sampler import SelectionSampler as SelectionSampler
    from data_agent.methods import make_selector as make_selector
    from data_agent.selecting.batch_selector import BatchSelector as BatchSelector
    from data_agent.selecting.feedback import Feedback as Feedback
    from data_agent.selecting.feedback import Selection as Selection
    from data_agent.selecting.selector import Selector as Selector

__all__ = [
    "BatchSelector",
    "DataAgent",
    "DataAgentConfig",
    "DataAgentError",
    "Feedback",
    "IndexedDataset",
    "Selection",
    "SelectionSampler",
    "SelectionSchedule",
    "Selector",
    "make_selector",
    "selection_loader",
]

_MODULES = {
    "BatchSelector": "selecting.batch_selector",
    "DataAgent": "agent.agent",
    "DataAgentConfig": "agent.config",
    "DataAgentError": "errors",
    "Feedback": "selecting.feedback",
    "IndexedDataset": "loading.indexed",
    "Selection": "selecting.feedback",
    "SelectionSampler": "loading.sampler",
    "SelectionSchedule": "budget.schedule",
    "Selector": "selecting.selector",
    "make_selector": "methods",
    "selection_loader": "loading.loader",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that errors and versions need no torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
