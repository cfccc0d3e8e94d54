"""Experiments and commits side by side."""
