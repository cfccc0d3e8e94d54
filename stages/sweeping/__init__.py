"""Many heads trained at once, for the command `sweep`."""
