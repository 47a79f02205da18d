"""What surrounds the training step in a run: schedule, start, monitor, metrics, stop, workdir."""
