"""From a selection to batches that carry their index."""
