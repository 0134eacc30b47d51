"""What the numbers of a run's samples say about its data: what to look at, what to leave out."""
