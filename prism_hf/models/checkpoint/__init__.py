"""Files of weights: loading that refuses what is not whole, and reading what others saved without trusting it."""
