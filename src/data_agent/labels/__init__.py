"""What labels tell: constraints on any ranking."""
