"""The contract of every selection method, and what all methods share."""
