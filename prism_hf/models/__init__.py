"""Models with weights; importing this registers them with transformers' Auto classes, and their pipeline."""

from . import dream, llada, mdlm, pipeline, prism

__all__ = ["dream", "llada", "mdlm", "pipeline", "prism"]
