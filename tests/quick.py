"""Compiler options for what a test runs once. Importing this starts jax's devices."""

import jax


def known_options(options):
    """The compiler options that this XLA knows of: they come and go with its versions."""
    try:
        jax.jit(lambda: 0).lower().compile(options)
    except jax.errors.JaxRuntimeError:
        return {}
    return options


# Halves the time again for a training step, by the older of two code generators, where there still
# are two. It adds up one by one: for float64, or where rounding doesn't matter.
QUICK = known_options({"xla_cpu_use_fusion_emitters": False})
QUICK_FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK.items())
