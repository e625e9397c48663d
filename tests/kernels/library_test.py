"""A missing or broken library causes one warning, and programs run by XLA."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icm_jax import kernels
from icm_jax.kernels import convolution
from icm_jax.kernels.cpu import library

LAYERS = (convolution.Layer(2),)


@pytest.fixture
def fresh():
  """Forgets whether the library can be used, before the test and after it."""
  library.registered.cache_clear()
  yield
  library.registered.cache_clear()


def missing(monkeypatch, tmp_path):
  monkeypatch.setattr(library, "FILE", tmp_path / "none.so")


def broken(monkeypatch, tmp_path):
  path = tmp_path / "broken.so"
  path.write_text("not a library")
  monkeypatch.setattr(library, "FILE", path)


def cut_off(monkeypatch, tmp_path):
  # Without a compiler, the header of an ELF file will do.
  data = b"\x7fELF\x02\x01" + bytes(34) + (10**6).to_bytes(8, "little")
  if library.FILE.exists():
    data = library.FILE.read_bytes()
  path = tmp_path / "short.so"
  path.write_bytes(data[: len(data) * 3 // 4] if len(data) > 999 else data)
  monkeypatch.setattr(library, "FILE", path)


def of_another_version(monkeypatch, tmp_path):
  del tmp_path
  monkeypatch.setattr(library, "_register", frozenset)

  def refuse(device):
    del device
    raise RuntimeError("API version 0.9 is incompatible\nand more")

  monkeypatch.setattr(library, "_try", refuse)


@pytest.mark.parametrize(
  ("spoil", "reason"),
  [
    (missing, "was not compiled when the package was installed"),
    (broken, "cannot be loaded or called"),
    (cut_off, "its file was cut off"),
    (of_another_version, "API version 0.9 is incompatible"),
  ],
)
def test_one_warning_says_why_and_xla_takes_over(
  spoil, reason, fresh, monkeypatch, tmp_path
):
  spoil(monkeypatch, tmp_path)
  x_BHWC = jax.random.normal(jax.random.key(0), (1, 3, 3, 1))
  parameters = convolution.init_parameters(jax.random.key(1), 1, LAYERS)
  # New functions, because another test may have compiled the old ones.
  run = jax.jit(lambda x, p: convolution.stack(x, p, LAYERS))
  with pytest.warns(RuntimeWarning, match=reason) as record:
    y_BHWC = run(x_BHWC, parameters)
    run(x_BHWC[:, :2], parameters)
  assert len(record) == 1
  assert "ICM_JAX_KERNELS=xla" in str(record[0].message)
  np.testing.assert_array_equal(
    y_BHWC,
    jax.jit(convolution.plain_stack, static_argnums=2)(
      x_BHWC, parameters, LAYERS
    ),
  )


def test_choosing_xla_causes_no_warning(fresh, monkeypatch, tmp_path):
  missing(monkeypatch, tmp_path)
  parameters = convolution.init_parameters(jax.random.key(1), 1, LAYERS)
  with kernels.use("xla"), warnings.catch_warnings():
    warnings.simplefilter("error")
    convolution.stack(jnp.zeros((1, 3, 3, 1)), parameters, LAYERS)


def test_lowering_for_other_platforms_causes_no_warning(
  fresh, monkeypatch, tmp_path
):
  missing(monkeypatch, tmp_path)
  parameters = convolution.init_parameters(jax.random.key(1), 1, LAYERS)
  run = jax.jit(lambda x: convolution.stack(x, parameters, LAYERS))
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    traced = run.trace(jnp.zeros((1, 3, 3, 1)))
    traced.lower(lowering_platforms=("tpu",))
