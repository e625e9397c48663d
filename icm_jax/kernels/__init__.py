"""Convolutions and normalisation: XLA's, and compiled ones for CPUs.

`convolution` and `normalisation` have the plain forms, in terms of `jax.lax`
and `jax.numpy`; `primitive` makes functions of them that call a compiled
library (`cpu/`) in programs that are lowered for a CPU. Nothing in `cpu/`
matters to who runs them on a GPU or a TPU.

There is one switch, for whoever doubts a compiled result or wants programs that
consist of XLA's operations only: the environment variable
`ICM_JAX_KERNELS=xla`, or, around what traces a program, `kernels.use("xla")`.
"""

from icm_jax.kernels.choice import use
from icm_jax.kernels.cpu.library import is_available as is_compiled
from icm_jax.kernels.primitive import is_kernel

__all__ = ("is_compiled", "is_kernel", "use")
