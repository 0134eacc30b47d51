"""What everything stands on: ranks, random draws, files, states, clocks."""
