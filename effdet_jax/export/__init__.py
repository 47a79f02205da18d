"""A trained detector as a file that runs without this package, and the proof that it does."""
