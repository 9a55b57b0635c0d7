"""From DATA arguments to batches: inputs, windows, labels, groups."""
