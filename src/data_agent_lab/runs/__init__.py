"""One run on disk: its folder, where it ran, what it reached."""
