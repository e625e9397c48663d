"""Convolutions and normalisation, by XLA and by compiled functions for CPUs.

`convolution` and `normalisation` have the plain forms, in terms of `jax.lax`
and `jax.numpy`. `primitive` turns these into functions that call a compiled
library (`cpu/`) in programs that are lowered for a CPU. Programs for GPUs and
TPUs use the plain forms only.

One switch turns compiled functions off, to check their results or to get
programs that consist of XLA's operations only: the environment variable
`ICM_JAX_KERNELS=xla`, or the context `kernels.use("xla")` around the tracing of
a program.
"""

from icm_jax.kernels.choice import use
from icm_jax.kernels.cpu.library import is_available as is_compiled
from icm_jax.kernels.cpu.memory import keep_memory
from icm_jax.kernels.primitive import is_kernel

__all__ = ("is_compiled", "is_kernel", "keep_memory", "use")
