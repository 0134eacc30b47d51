"""A reward that is learned: how rows that a user trusts differ, to the model, from all others."""

from data_agent.trusted.policy import TrustedConfig as TrustedConfig

__all__ = ["TrustedConfig"]
