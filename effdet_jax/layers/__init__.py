"""Convolutions and batch normalisation as Flax modules."""
