"""Boxes as tensors: geometry, losses, and what the heads share that predict at many locations.

A box is its corners x1, y1, x2, y2, right and bottom exclusive: in pixels of an image, or in [0, 1] of a view.
"""
