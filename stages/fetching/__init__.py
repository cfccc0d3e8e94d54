"""Files from elsewhere, whole and checked: over HTTP, from the Python package index, from the disk."""
