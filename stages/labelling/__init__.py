"""Labelling: which images to label next, a page to label them on, and what labels brought."""
