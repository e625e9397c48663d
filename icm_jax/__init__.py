"""Independent causal mechanisms in JAX: experts that compete without labels."""

__version__ = "0.1.0"
