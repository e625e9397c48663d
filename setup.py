"""Compiles what is slow by XLA on CPUs; everything else is in setup.cfg.

Where there is no C++ compiler, the package is installed without it, and XLA
does the same.
"""

import importlib.util
import pathlib
import platform

import setuptools

jaxlib = pathlib.Path(importlib.util.find_spec("jaxlib").origin).parent
flags = ["-std=c++17", "-O3", "-fno-math-errno"]
if platform.machine().lower() in ("x86_64", "amd64"):
  flags.append("-march=x86-64-v3")

setuptools.setup(
  ext_modules=[
    setuptools.Extension(
      "icm_jax.models._compiled",
      sources=[
        "icm_jax/models/convolution.cc",
        "icm_jax/models/normalisation.cc",
      ],
      depends=["icm_jax/models/cpu.h", "icm_jax/models/operands.h"],
      include_dirs=[str(jaxlib / "include")],
      extra_compile_args=flags,
      language="c++",
      optional=True,
    )
  ]
)
