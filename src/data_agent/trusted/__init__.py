"""A reward that is learned: how rows that a user trusts differ, to the model, from all others."""
