"""Networks for sequences: causality, and fields that are refused."""

import jax
import numpy as np
import pytest

from experiments.configs import rim_copying
from icm_jax import rim, types

KEY = jax.random.key(0)


def make_network(name):
  fields = rim_copying.get_config("smoke").models[name].to_dict()
  for key in ("learning_rate", "clip"):  # Of the optimizer.
    del fields[key]
  return rim.make_network(name, fields, num_inputs=2, num_outputs=3)


@pytest.mark.parametrize("name", ["rim", "transformer"])
def test_outputs_do_not_depend_on_later_steps(name, draw_params):
  network = make_network(name)
  params = draw_params(network.init)
  x_BTF = jax.random.normal(KEY, (2, 5, 2))
  other_BTF = x_BTF.at[0, 3:].add(1.0)
  apply = jax.jit(network.apply)
  y_BTO, other_BTO = apply(params, x_BTF), apply(params, other_BTF)
  np.testing.assert_array_equal(y_BTO[0, :3], other_BTO[0, :3])
  np.testing.assert_array_equal(y_BTO[1], other_BTO[1])
  assert (np.asarray(y_BTO[0, 3:]) != np.asarray(other_BTO[0, 3:])).any()


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_memory_bias_keeps_what_was_read(name):
  """After long blanks, outputs still depend on the first input."""
  x_BTF = jax.numpy.zeros((2, 40, 2)).at[1, 0].set(1.0)
  kept = []
  for bias in (0.0, 5.0):
    network = rim.make_network(
      name, {"size": 8, "memory_bias": bias}, num_inputs=2, num_outputs=3
    )
    y_BTO = jax.jit(network.apply)(jax.jit(network.init)(KEY), x_BTF)
    kept.append(float(abs(y_BTO[1, -1] - y_BTO[0, -1]).max()))
  assert kept[1] > 10 * kept[0]


@pytest.mark.parametrize(
  ("name", "fields", "message"),
  [
    ("rmc", {}, "Unknown model 'rmc'; known: rim, lstm"),
    ("rim", {"sise": 3}, "unexpected keyword argument 'sise'"),
    ("lstm", {"size": 0}, "at least 1; got 0"),
    ("transformer", {"width": 5}, "multiple of its heads"),
  ],
)
def test_bad_networks_are_refused(name, fields, message):
  with pytest.raises(types.InputError, match=message):
    rim.make_network(name, fields, num_inputs=1, num_outputs=1)
