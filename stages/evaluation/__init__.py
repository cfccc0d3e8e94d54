"""What evaluate writes, for each task: metrics, plots and predictions."""
