"""Commits, experiments and the workspace side by side."""
