"""What `sandbox.py` starts as `python -I <this folder>`. Standard library only."""
