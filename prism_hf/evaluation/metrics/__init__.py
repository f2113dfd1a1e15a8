"""Numbers that tell how good samples are, and how sure that is."""
