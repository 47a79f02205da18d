"""Speed and memory: of this code alone, and side by side with others; `python -m effdet_jax.benchmark`."""
