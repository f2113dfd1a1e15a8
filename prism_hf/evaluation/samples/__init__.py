"""Files of samples that models wrote: read, scored by another model, and set side by side."""
