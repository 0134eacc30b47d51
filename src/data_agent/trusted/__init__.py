"""A reward that is learned: how rows that a user trusts differ, to the model, from all others."""

from data_agent.trusted.appended import append_trusted as append_trusted
from data_agent.trusted.overlap import warn_of_overlap as warn_of_overlap
from data_agent.trusted.policy import TrustedConfig as TrustedConfig

__all__ = ["TrustedConfig", "append_trusted", "warn_of_overlap"]
