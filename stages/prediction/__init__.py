"""What a trained head predicts for new images."""
