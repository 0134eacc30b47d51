"""The lab, of the extra `lab`: one training loop for all methods, and honest comparisons."""
