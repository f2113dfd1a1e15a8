"""From the rows of a dataset to batches that a trainer reads."""
