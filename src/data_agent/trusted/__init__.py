"""A reward that is learned: how rows a user trusts differ, to the model in training, from others."""
