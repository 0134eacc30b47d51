"""Language in the lab: instruction tuning, plain text and text classification, by Trainers."""
