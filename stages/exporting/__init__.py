"""A head with its backbone as one file for other programs."""
