"""Independent causal mechanisms in JAX: experts that compete without labels.

What users may rely on is listed in `__all__` of these packages:

  competition  the update, its state and its parts; needs jax, optax and chex
  models       experts and discriminators, in Flax
  mechanisms   what distorts images
  data         data sets, and batches of them
  evaluation   what experts have learned
  training     runs from a config, with checkpoints
  viz          figures and pages

Of the last four `__all__` names modules, which are imported one by one: `from
icm_jax.data import problem`. All else may change from one version to the next.
"""

__version__ = "0.1.0"

__all__ = (
  "competition",
  "data",
  "evaluation",
  "mechanisms",
  "models",
  "training",
  "viz",
)
