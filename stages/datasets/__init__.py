"""Sources of images: one module a dataset, all returning the same records."""
