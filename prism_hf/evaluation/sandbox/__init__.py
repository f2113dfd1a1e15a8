"""Where programs that a model wrote can do no harm."""
