"""One denoising step: schedule, reading, unmasking, and what ends it."""
