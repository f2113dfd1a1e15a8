"""What `sandbox.py` starts as `python -I -S <this folder>/__main__.py`. Standard library only."""
