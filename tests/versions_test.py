"""What people paste into a report of a problem."""

import subprocess

import jax
import pytest

from icm_jax import __version__, kernels, versions


def lines():
  return dict(line.split(": ", 1) for line in versions.describe().splitlines())


def test_a_report_names_versions_devices_and_kernels(monkeypatch):
  monkeypatch.delenv("ICM_JAX_KERNELS", raising=False)
  monkeypatch.setenv("JAX_TEST_ONE", "1")
  monkeypatch.setenv("JAX_TEST_FOLDER", "/home/me/cache")
  found = lines()
  assert found["icm-jax"].startswith(f"{__version__} (")
  assert f"jax {jax.__version__}, " in found["packages"]
  assert "not installed" not in found["packages"]
  assert found["devices"].startswith(f"{len(jax.devices())} of cpu")
  assert found["CPU"].endswith(" cores")
  assert "JAX_TEST_ONE=1" in found["variables"]
  assert "/home/me" not in found["variables"]


@pytest.mark.parametrize(
  ("value", "words"),
  [
    ("xla", "XLA's only, as the environment asks"),
    ("fast", "unknown (ICM_JAX_KERNELS must be one of auto, xla; got 'fast'.)"),
  ],
)
def test_the_environment_may_turn_kernels_off(value, words, monkeypatch):
  monkeypatch.setenv("ICM_JAX_KERNELS", value)
  assert lines()["kernels"] == words


def test_a_library_that_cannot_be_used_is_explained(monkeypatch):
  monkeypatch.delenv("ICM_JAX_KERNELS", raising=False)

  def refuse():
    versions.warnings.warn("because.", RuntimeWarning, stacklevel=1)
    return False

  monkeypatch.setattr(kernels, "is_compiled", refuse)
  assert lines()["kernels"] == "not compiled; because."


def test_a_platform_that_is_missing_is_told(monkeypatch):
  def fail():
    raise RuntimeError("Unknown backend cuda\nmore")

  monkeypatch.setattr(jax, "devices", fail)
  assert lines()["devices"] == "none (Unknown backend cuda)"


def test_a_checkout_without_git_is_no_error(monkeypatch):
  def fail(*arguments, **options):
    raise OSError("no git")

  monkeypatch.setattr(subprocess, "run", fail)
  assert versions.commit() in ("no checkout", "unknown, because git failed")
