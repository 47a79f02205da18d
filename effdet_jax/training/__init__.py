"""Sharding, state, optimizer, train step, metrics: knows neither data nor evaluation."""
