"""What to paste into a report of a problem: versions, devices and kernels.

python -m icm_jax.versions
"""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
import warnings

import jax

from icm_jax import __version__, kernels
from icm_jax.kernels import choice

PACKAGES = ("icm-jax", "jax", "jaxlib", "flax", "optax", "numpy")
# Packages that matter less often; those that are missing are left out.
_MORE = (
  "chex",
  "orbax-checkpoint",
  "ml-collections",
  "array-record",
  "tensorflow-datasets",
  "pillow",
  "scipy",
  "matplotlib",
  "safetensors",
  "flatbuffers",
  "onnxruntime",
  "opencv-python-headless",
  "jax-cuda12-plugin",
  "jax-cuda13-plugin",
  "libtpu",
)
_VARIABLES = ("JAX_", "XLA_", "ICM_JAX_", "CUDA_VISIBLE_DEVICES")


def of_packages(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
  """Versions of installed packages, "not installed" for others."""
  versions = {}
  for name in names:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = "not installed"
  return versions


def commit() -> str:
  """The commit of the checkout; "-dirty" marks changed files."""
  root = pathlib.Path(__file__).parents[1]
  if not (root / ".git").exists():
    return "no checkout"
  describe = ("describe", "--always", "--dirty", "--exclude=*")
  try:
    return subprocess.run(
      ("git", "-C", str(root), *describe),
      capture_output=True,
      check=True,
      text=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return "unknown, because git failed"


def describe() -> str:
  """All of it as lines of text; names no folder and no user."""
  packages = of_packages(PACKAGES[1:]) | {
    name: version
    for name, version in of_packages(_MORE).items()
    if version != "not installed"
  }
  lines = {
    "icm-jax": f"{__version__} ({commit()})",
    "Python": f"{platform.python_version()}, {sys.implementation.name}",
    "system": platform.platform(),
    "CPU": f"{_processor()}, {_num_cores()} cores",
    "devices": _devices(),
    "kernels": _kernels(),
    "packages": ", ".join(f"{n} {v}" for n, v in packages.items()),
    "variables": ", ".join(
      f"{name}={value}"
      for name, value in sorted(os.environ.items())
      if name.startswith(_VARIABLES) and os.sep not in value
    )
    or "none",
  }
  return "\n".join(f"{name}: {text}" for name, text in lines.items())


def _processor() -> str:
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:  # Only Linux has the file.
    lines = []
  names = [line for line in lines if line.startswith("model name")]
  name = names[0].partition(":")[2].strip() if names else platform.processor()
  return f"{name or 'unknown'} ({platform.machine()})"


def _num_cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 0


def _devices() -> str:
  try:
    devices = jax.devices()
  except RuntimeError as error:  # The platform that was asked for is not there.
    return f"none ({str(error).splitlines()[0]})"
  kinds = ", ".join(sorted({device.device_kind for device in devices}))
  return f"{len(devices)} of {jax.default_backend()} ({kinds})"


def _kernels() -> str:
  try:
    if choice.is_xla():
      return "XLA's only, as the environment asks"
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter("always")
      if kernels.is_compiled():
        return "compiled"
  # A variable of the environment has an unknown value, or jax does not start.
  except Exception as error:
    return f"unknown ({str(error).splitlines()[0]})"
  reasons = [str(warning.message) for warning in caught]
  return "; ".join(["not compiled", *reasons])


def main() -> None:
  print(describe())


if __name__ == "__main__":
  main()
