"""From image bytes to cached features: the pipeline, the HDF5 file, the row store."""
