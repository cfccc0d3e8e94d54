"""Training on features in memory."""
