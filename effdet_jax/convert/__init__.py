"""Weights from and to other frameworks, every tensor accounted for."""
