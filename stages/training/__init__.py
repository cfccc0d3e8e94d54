"""Training of heads on cached features."""
