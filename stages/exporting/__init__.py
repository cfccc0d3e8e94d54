"""A head and its backbone as one file for other programs."""
