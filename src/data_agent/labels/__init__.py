"""What labels tell: constraints on any ranking, and the method that is nothing but these."""

from data_agent.labels.rules import LabelRules as LabelRules

__all__ = ["LabelRules"]
