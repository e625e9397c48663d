"""Compiles the library of kernels for CPUs; everything else is in setup.cfg.

Without a C++ compiler the package is installed without the library, and XLA
takes its place.
"""

import importlib.util
import pathlib
import platform
import shutil

import setuptools
from setuptools.command import build, build_ext, build_py

CPU = pathlib.Path("icm_jax/kernels/cpu")
WIDE = CPU / "wide.cc"
# Where `icm_jax.programs` finds the programs of an installation.
SHIPPED = pathlib.Path("icm_jax/shipped")


class Build(build.build):
  """Removes the files of earlier builds before a new one."""

  def run(self):
    shutil.rmtree(self.build_lib, ignore_errors=True)
    super().run()


class BuildPackages(build_py.build_py):
  """Installs the programs and their configs inside of the package.

  `experiments` is no package of its own there: other projects have one too.
  """

  def run(self):
    super().run()
    if not self.editable_mode:
      for path in pathlib.Path("experiments").rglob("*.py"):
        installed = self.build_lib / SHIPPED / path
        self.mkpath(str(installed.parent))
        self.copy_file(str(path), str(installed))


class BuildExtension(build_ext.build_ext):
  """Always compiles, because headers may have changed since the last time.

  If compilation fails, no older library is left.
  """

  def finalize_options(self):
    super().finalize_options()
    self.force, self.parallel = True, True

  def build_extension(self, ext):
    path = pathlib.Path(self.get_ext_fullpath(ext.name))
    path.unlink(missing_ok=True)
    super().build_extension(ext)


jaxlib = pathlib.Path(importlib.util.find_spec("jaxlib").origin).parent
ON_X86 = platform.machine().lower() in ("x86_64", "amd64")


def library(name, sources, *flags):
  """A library of kernels; it is left out where it cannot be compiled."""
  return setuptools.Extension(
    f"icm_jax.kernels.cpu.{name}",
    sources=sources,
    depends=sorted(str(path) for path in CPU.glob("*.h")),
    include_dirs=[str(jaxlib / "include")],
    extra_compile_args=[
      "-std=c++17",
      "-O3",
      "-g0",
      "-fno-math-errno",
      *flags,
    ],
    language="c++",
    optional=True,
  )


libraries = [
  library(
    "_compiled",
    sorted(str(path) for path in CPU.glob("*.cc") if path != WIDE),
    *(["-march=x86-64-v3"] if ON_X86 else []),
  )
]
if ON_X86:
  libraries.append(
    library(
      "_compiled_wide",
      [str(WIDE)],
      "-march=x86-64-v4",
      "-mprefer-vector-width=512",
    )
  )

setuptools.setup(
  cmdclass={
    "build": Build,
    "build_ext": BuildExtension,
    "build_py": BuildPackages,
  },
  ext_modules=libraries,
)
