"""Samplers side by side, on one model and one task."""
