"""Networks that map a sequence to one output per step: RIMs and baselines."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from icm_jax import types
from icm_jax.rim import cell as cell_lib

NETWORKS = ("rim", "lstm", "gru", "transformer")
# Parameters, in Flax's cells, of the gate that keeps the state.
_KEEPING = {"lstm": "hf", "gru": "iz"}


class Activity(NamedTuple):
  """Which RIMs were active at each step, and why.

  Attributes:
    active_BTR: bool.
    null_BTR: float32 in [0, 1], attention on the null row.
  """

  active_BTR: jax.Array
  null_BTR: jax.Array


class SequenceNetwork(NamedTuple):
  """A network for sequences as pure functions.

  Attributes:
    init: `init(key) -> params`.
    apply: `apply(params, x_BTF, key=None) -> y_BTO`. The output at a step
      depends only on the same sequence up to that step. Without a key there is
      no dropout.
    watch: `watch(params, x_BTF) -> Activity`; None if the network has no RIMs.
  """

  init: Callable[[jax.Array], types.PyTree]
  apply: Callable[..., jax.Array]
  watch: Callable[[types.PyTree, jax.Array], Activity] | None


class Recurrent(nn.Module):
  """A recurrent cell over a sequence, followed by a linear layer."""

  cell: nn.RNNCellBase
  num_outputs: int

  @nn.compact
  def __call__(self, x_BTF):
    h_BTD = nn.RNN(
      self.cell,
      split_rngs={"params": False, "dropout": True},
      variable_axes={"intermediates": 1},
    )(x_BTF)
    return nn.Dense(self.num_outputs)(h_BTD)


class Transformer(nn.Module):
  """A causal pre-norm Transformer with sinusoidal positions.

  Attributes:
    num_outputs: O.
    width: features of a layer.
    layers: number of layers.
    heads: attention heads; must divide the width.
    dropout: rate in [0, 1).
    deterministic: turns dropout off.
  """

  num_outputs: int
  width: int = 64
  layers: int = 2
  heads: int = 4
  dropout: float = 0.1
  deterministic: bool = True

  @nn.compact
  def __call__(self, x_BTF):
    drop = functools.partial(
      nn.Dropout, self.dropout, deterministic=self.deterministic
    )
    num_steps = x_BTF.shape[1]
    h_BTD = nn.Dense(self.width)(x_BTF)
    h_BTD = h_BTD + sinusoids(num_steps, self.width)[None]
    past_BATT = nn.make_causal_mask(jnp.zeros((1, num_steps)))
    for _ in range(self.layers):
      heard_BTD = nn.MultiHeadDotProductAttention(
        num_heads=self.heads,
        dropout_rate=self.dropout,
        deterministic=self.deterministic,
      )(nn.LayerNorm()(h_BTD), mask=past_BATT)
      h_BTD = h_BTD + drop()(heard_BTD)
      thought_BTD = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(h_BTD)))
      h_BTD = h_BTD + drop()(nn.Dense(self.width)(thought_BTD))
    return nn.Dense(self.num_outputs)(nn.LayerNorm()(h_BTD))


def sinusoids(num_steps: int, width: int) -> jax.Array:
  """Encodes positions as sines and cosines, [T, D] in [-1, 1]."""
  rate_D = jnp.exp(-math.log(1e4) * jnp.arange(0, width, 2) / width)
  angle_TD = jnp.arange(num_steps)[:, None] * rate_D[None]
  both_TD = jnp.concatenate([jnp.sin(angle_TD), jnp.cos(angle_TD)], axis=1)
  return both_TD[:, :width]


def make_network(
  name: str, fields: Mapping[str, Any], *, num_inputs: int, num_outputs: int
) -> SequenceNetwork:
  """Makes a network by name.

  Args:
    name: one of `NETWORKS`.
    fields: fields of `RIMCell` or `Transformer`; `size` for LSTM and GRU, and
      `memory_bias`, the initial bias of the gate that keeps the state: an
      LSTM's forget gate (Gers et al., 2000), a GRU's update gate.
    num_inputs: F.
    num_outputs: O.

  Raises:
    InputError: the name or a field is unknown, or a value is out of range.
  """
  if name not in NETWORKS:
    raise types.InputError(
      f"Unknown model {name!r}; known: {', '.join(NETWORKS)}."
    )
  fields = dict(fields)
  memory_bias = fields.pop("memory_bias", 0.0) if name in _KEEPING else 0.0
  make = functools.partial(_make_module, name, fields, num_outputs)
  try:
    module = make(deterministic=True)
  except TypeError as error:
    raise types.InputError(
      f"A field of model {name!r} is wrong: {error}."
    ) from error
  if name == "rim":
    cell_lib.check(module.cell)
  elif name == "transformer":
    _check_transformer(module)
  elif module.cell.features < 1:
    raise types.InputError(
      f"The size of model {name!r} must be at least 1; got "
      f"{module.cell.features}."
    )

  def init(key):
    params = module.init(key, jnp.zeros((1, 2, num_inputs)))["params"]
    if memory_bias:
      gate = params["cell"][_KEEPING[name]]
      gate["bias"] = jnp.full_like(gate["bias"], memory_bias)
    return params

  def apply(params, x_BTF, key=None):
    rngs = None if key is None else {"dropout": key}
    chosen = module if key is None else make(deterministic=False)
    return chosen.apply({"params": params}, x_BTF, rngs=rngs)

  def watch(params, x_BTF):
    _, left = module.apply({"params": params}, x_BTF, mutable="intermediates")
    seen = left["intermediates"]["cell"]
    return Activity(*(seen[n][0] for n in ("active_BR", "null_BR")))

  return SequenceNetwork(init, apply, watch if name == "rim" else None)


def _make_module(name, fields, num_outputs, *, deterministic):
  if name == "transformer":
    return Transformer(num_outputs, deterministic=deterministic, **fields)
  if name == "rim":
    cell = cell_lib.RIMCell(deterministic=deterministic, **fields)
  else:
    kind = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}[name]
    cell = _sized(kind, **fields)
  return Recurrent(cell, num_outputs)


def _sized(kind, *, size):
  return kind(features=size)


def _check_transformer(module: Transformer) -> None:
  if min(module.layers, module.heads, module.width) < 1 or (
    module.width % module.heads
  ):
    raise types.InputError(
      "A transformer's width must be a multiple of its heads, and width, heads "
      f"and layers must be at least 1; got width {module.width}, "
      f"{module.heads} heads, {module.layers} layers."
    )
  if not 0 <= module.dropout < 1:
    raise types.InputError(
      f"A transformer's dropout must be in [0, 1); got {module.dropout}."
    )
