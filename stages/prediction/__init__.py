"""Answers of a trained head on new images."""
