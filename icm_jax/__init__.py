"""Independent causal mechanisms in JAX: experts that compete without labels.

`__all__` of these packages lists the public names:

  competition  the update, its state and its parts; imports jax, flax, optax and
               chex only
  kernels      the switch between compiled and XLA's convolutions
  models       experts and discriminators, in Flax; `Stack` for your own
  mechanisms   functions that distort images
  rim          recurrent independent mechanisms: the cell, and networks
  data         data sets, and batches of them
  evaluation   measures of what experts have learned
  training     runs from a config, with checkpoints
  viz          figures and pages

`__all__` of the last four lists modules, which are imported one by one, such as
`from icm_jax.data import problem`. Everything else may change from one version
to the next.
"""

__version__ = "0.1.0"

__all__ = (
  "competition",
  "data",
  "evaluation",
  "kernels",
  "mechanisms",
  "models",
  "rim",
  "training",
  "viz",
)
