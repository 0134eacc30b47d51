"""What a run will be, before it is paid for: its phases, cost and memory, and whether to select."""
