"""What surrounds the training step in a run: schedule, state to begin with, metrics, workdir."""
