"""Runs on disk and in processes: one, and many for a comparison."""
