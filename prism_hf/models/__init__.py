"""Models with weights; importing this registers them with transformers' Auto classes."""

from . import mdlm, prism

__all__ = ["mdlm", "prism"]
