"""Models with weights; importing this registers them with transformers' Auto classes, and their pipeline."""

from . import llada, mdlm, pipeline, prism

__all__ = ["llada", "mdlm", "pipeline", "prism"]
