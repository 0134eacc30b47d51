"""Data Agent: a learned agent decides, while a model trains, which samples to train on next."""

from data_agent._version import __version__ as __version__
from data_agent.agent.agent import DataAgent as DataAgent
from data_agent.agent.config import DataAgentConfig as DataAgentConfig
from data_agent.budget.schedule import SelectionSchedule as SelectionSchedule
from data_agent.errors import DataAgentError as DataAgentError
from data_agent.loading.indexed import IndexedDataset as IndexedDataset
from data_agent.loading.sampler import SelectionSampler as SelectionSampler
from data_agent.loading.sampler import selection_loader as selection_loader
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
