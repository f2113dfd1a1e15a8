"""Functions to write, with tests that judge them."""
