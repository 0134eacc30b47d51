"""Where data come from: images and texts, regimes, splits."""
