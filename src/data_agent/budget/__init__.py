"""What each epoch is: how many samples, which of them unselected."""
