"""Models with weights; importing this registers them with transformers' Auto classes."""

from . import llada, mdlm, prism

__all__ = ["llada", "mdlm", "prism"]
