"""All runs of a comparison: which they are, how long they will take, several at a time."""
