"""Training frameworks, one file each; none is loaded until its file is imported."""
