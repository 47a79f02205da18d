"""A trained detector in use: load, fold, predict, draw."""
