"""Sources of images: one module per dataset, all returning the same records."""
