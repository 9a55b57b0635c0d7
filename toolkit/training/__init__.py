"""One loop: schedule, optimizer, checkpoints, progress."""
