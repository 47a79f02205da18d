"""A training step on a machine that isn't here: compiled for it, weighed, and timed on paper."""
