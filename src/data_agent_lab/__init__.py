"""The lab: one training loop for all methods, and honest comparisons of what they cost and reach.

Needs the extra `lab` (`pip install 'data-agent[lab]'`). The command line is `data_agent_lab.cli`.
"""
