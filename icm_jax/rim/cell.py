"""Recurrent independent mechanisms: a cell whose parts compete for its input.

The cell implements Sec. 2 of Goyal et al., *Recurrent Independent Mechanisms*,
ICLR 2021 (arXiv 1909.10893). It consists of k small recurrent networks, the
RIMs, each with its own state and parameters. At every time step:

1. each RIM attends, by its state, to the input and to a row of zeros, the null
   row;
2. the k_A RIMs with the least attention on the null row are active;
3. active RIMs read the input and update their states; the states of inactive
   RIMs do not change;
4. active RIMs attend to the states of all RIMs, and add the result to their
   own.

`RIMCell` can replace Flax's `LSTMCell` or `GRUCell`. Where the authors' code
differs from their paper, a field of the cell selects one of the two; the
default is the paper's choice.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from icm_jax import rng, types

KINDS = ("lstm", "gru")
COMMUNICATIONS = ("residual", "gated")
GRADIENTS = ("all", "active")

# Glorot initialisation, applied to each RIM separately.
_kernel_init = nn.initializers.variance_scaling(
  1.0, "fan_avg", "uniform", batch_axis=(0,)
)


class RIMCell(nn.RNNCellBase):
  """k recurrent networks, of which k_A are updated at a time.

  The carry is `(c_BRD, h_BRD)` for LSTMs and `h_BRD` for GRUs, float32; the
  output is the new h of all RIMs, [B, R * D]. Inputs and states may have any
  number of batch axes, including none. With a mutable collection
  `intermediates`, a step stores `active_BR`, bool, and `null_BR`, float in
  [0, 1], the attention on the null row averaged over heads.

  The cell consists of plain JAX operations, so all transformations apply to it.
  The choice of the active RIMs is not differentiable, and no gradient flows
  through it.

  Dropout applies to attention weights and takes its keys from the stream
  `dropout`; `nn.RNN` needs `split_rngs={"params": False, "dropout": True}`.

  Attributes:
    rims: k, the number of RIMs.
    active: k_A in [1, k]. Ties are resolved in favour of the lower index.
    size: units of one RIM.
    kind: "lstm" or "gru".
    embed: features of a linear embedding of the input, which comes before the
      null row is added. The embedding has a bias, so that an input of zeros
      differs from the null row. 0 uses the input itself, as the authors' code
      for sequential MNIST does; an input of zeros then equals the null row.
    presence: initial value of a logit by which the first k_A RIMs prefer an
      input to none (an input of zeros only), and the other RIMs prefer none to
      an input. Every RIM has a trainable logit of its own. So from the start
      some RIMs read the input, and keep what they have read while the input is
      zeros. 0 is the paper's choice: there is no such parameter, and the active
      RIMs depend on the states alone.
    input_keys: features of a key.
    input_values: features of the values of all heads together; None is 4 *
      size.
    input_heads: heads of the input attention.
    input_dropout: rate in [0, 1).
    communication_keys: features of a key.
    communication_values: features of a value.
    communication_heads: heads of the attention among RIMs; 0 turns
      communication off.
    communication_dropout: rate in [0, 1).
    communication: "residual" adds the attended values, mapped to the size of a
      state. States may then grow without bound, because inactive RIMs keep what
      was added to them and others attend to it again. "gated", as in the
      authors' code, adds sigmoid(a) * tanh(b) of two such maps.
    communication_gradient: "all" lets the gradient of the attended values reach
      all RIMs; "active", as in the authors' code, only the active ones.
    deterministic: turns dropout off.

  Raises:
    InputError: a field is out of its range.
  """

  rims: int = 6
  active: int = 4
  size: int = 100
  kind: str = "lstm"
  embed: int = 100
  presence: float = 0.0
  input_keys: int = 64
  input_values: int | None = None
  input_heads: int = 4
  input_dropout: float = 0.1
  communication_keys: int = 32
  communication_values: int = 32
  communication_heads: int = 4
  communication_dropout: float = 0.1
  communication: str = "residual"
  communication_gradient: str = "all"
  deterministic: bool = True

  @property
  def num_feature_axes(self) -> int:
    return 1

  @nn.nowrap
  def initialize_carry(self, key, input_shape: tuple[int, ...]):
    """Returns states of zeros for an input of this shape; `key` is unused."""
    del key
    h_BRD = jnp.zeros((*input_shape[:-1], self.rims, self.size))
    return (h_BRD, h_BRD) if self.kind == "lstm" else h_BRD

  @nn.compact
  def __call__(self, carry, x_BF):
    check(self)
    batch = x_BF.shape[:-1]
    # Inside, the axis of RIMs leads, so that batched products over RIMs need no
    # transposition.
    states = tuple(
      state.reshape(-1, self.rims, self.size).swapaxes(0, 1)
      for state in jax.tree.leaves(carry)
    )
    x_BF = x_BF.reshape(-1, x_BF.shape[-1])
    is_there_B = jnp.any(x_BF != 0, axis=-1)
    if self.embed:
      x_BF = nn.Dense(self.embed, name="embed")(x_BF)

    weight_RBA, value_BAD = self._ask_input(states[-1], x_BF, is_there_B)
    null_RB = 1 - weight_RBA.mean(axis=2)
    active_RB = choose_active(null_RB, self.active)
    for name, value_RB in (("null_BR", null_RB), ("active_BR", active_RB)):
      value_BR = value_RB.T.reshape(*batch, self.rims)
      self.sow("intermediates", name, value_BR)

    dropout = nn.Dropout(self.input_dropout, deterministic=self.deterministic)
    weight_RBA = dropout(weight_RBA)
    read_RBAD = weight_RBA[..., None] * value_BAD[None]
    read_RBD = read_RBAD.reshape(*active_RB.shape, -1)
    keep = functools.partial(jnp.where, active_RB[:, :, None])
    stepped = self._step(states, read_RBD)
    *rest, h_RBD = jax.tree.map(keep, stepped, states)
    if self.communication_heads:
      heard_RBD = self._communicate(h_RBD, active_RB)
      h_RBD = keep(h_RBD + heard_RBD, h_RBD)
    shape = (*batch, self.rims, self.size)
    states = tuple(s.swapaxes(0, 1).reshape(shape) for s in (*rest, h_RBD))
    out_BD = states[-1].reshape(*batch, self.rims * self.size)
    return states if self.kind == "lstm" else states[0], out_BD

  def _ask_input(self, h_RBD, x_BF, is_there_B):
    """Computes attention on the input, and the input's values.

    Keys and values have no bias, so those of the null row are zeros. The logit
    of the null row is therefore 0, the softmax over both rows is a sigmoid, and
    only the input's value contributes to what a RIM reads.

    Returns:
      The attention, [R, B, A] in [0, 1], and the values, [B, A, D].
    """
    heads, keys = self.input_heads, self.input_keys
    values = 4 * self.size if self.input_values is None else self.input_values
    dense = functools.partial(nn.DenseGeneral, axis=-1, use_bias=False)
    key_BAD = dense((heads, keys), name="input_key")(x_BF)
    value_BAD = dense((heads, values // heads), name="input_value")(x_BF)
    query_RBD = self._map("input_query", h_RBD, heads * keys)
    query_RBAD = query_RBD.reshape(*h_RBD.shape[:2], heads, keys)
    logit_RBA = (query_RBAD * key_BAD[None]).sum(axis=-1) / math.sqrt(keys)
    if self.presence:
      preference_R = self.param("presence", self._init_presence)
      preference_RB = jnp.where(
        is_there_B[None], preference_R[:, None], -preference_R[:, None]
      )
      logit_RBA += preference_RB[..., None]
    return jax.nn.sigmoid(logit_RBA), value_BAD

  @nn.nowrap
  def _init_presence(self, key):
    del key
    reads_R = jnp.arange(self.rims) < self.active
    return jnp.where(reads_R, self.presence, -self.presence)

  def _step(self, states, read_RBD):
    """Returns new states of all RIMs, as if all of them were active."""
    size, fan_in = self.size, read_RBD.shape[-1]
    *rest, h_RBD = states
    if self.kind == "lstm":
      shape = (self.rims, fan_in + size, 4 * size)
      both_RBD = jnp.concatenate([read_RBD, h_RBD], axis=-1)
      kernel_RDD = self.param("kernel", _init_both, shape)
      bias_RD = self.param("bias", nn.initializers.zeros, (self.rims, 4 * size))
      gates_RBD = multiply(both_RBD, kernel_RDD)
      return lstm(*rest, gates_RBD + bias_RD[:, None])
    shape = (self.rims, fan_in, 3 * size)
    kernel_RDD = self.param("kernel", _kernel_init, shape)
    bias_RD = self.param("bias", nn.initializers.zeros, (self.rims, 3 * size))
    read_RBD = multiply(read_RBD, kernel_RDD)
    shape = (self.rims, size, 3 * size)
    kernel_RDD = self.param("recurrent", _init_recurrent, shape)
    shape = (self.rims, size)
    recurrent_bias = self.param("recurrent_bias", nn.initializers.zeros, shape)
    recurrent_RBD = multiply(h_RBD, kernel_RDD)
    return gru(
      h_RBD, read_RBD + bias_RD[:, None], recurrent_RBD, recurrent_bias
    )

  def _communicate(self, h_RBD, active_RB):
    """Returns what each RIM attends to among all, in the size of a state."""
    heads = self.communication_heads
    keys, values = self.communication_keys, self.communication_values
    told_RBD = h_RBD
    if self.communication_gradient == "active":
      told_RBD = jnp.where(
        active_RB[:, :, None], h_RBD, jax.lax.stop_gradient(h_RBD)
      )

    def split(x_RBD):
      return x_RBD.reshape(*x_RBD.shape[:2], heads, -1)

    query_RBAD = split(self._map("communication_query", h_RBD, heads * keys))
    key_RBAD = split(self._map("communication_key", told_RBD, heads * keys))
    value_RBAD = split(
      self._map("communication_value", told_RBD, heads * values)
    )
    dropout = nn.Dropout(
      self.communication_dropout, deterministic=self.deterministic
    )
    logit_RBAR = jnp.einsum("rbad,sbad->rbas", query_RBAD, key_RBAD)
    weight_RBAR = dropout(jax.nn.softmax(logit_RBAR / math.sqrt(keys)))
    heard_RBAD = jnp.einsum("rbas,sbad->rbad", weight_RBAR, value_RBAD)
    heard_RBD = heard_RBAD.reshape(*h_RBD.shape[:2], heads * values)
    out_RBD = self._map("communication_out", heard_RBD, self.size)
    if self.communication == "residual":
      return out_RBD
    gate_RBD = self._map("communication_gate", heard_RBD, self.size)
    return jax.nn.sigmoid(gate_RBD) * jnp.tanh(out_RBD)

  def _map(self, name, x_RBD, features):
    """Applies a linear map whose parameters differ by RIM."""
    shape = (self.rims, x_RBD.shape[-1], features)
    return multiply(x_RBD, self.param(name, _kernel_init, shape))


def check(cell: RIMCell) -> None:
  """Checks that the cell's fields lie in their ranges.

  Raises:
    InputError: names the first field that does not.
  """
  for name, known in (
    ("kind", KINDS),
    ("communication", COMMUNICATIONS),
    ("communication_gradient", GRADIENTS),
  ):
    value = getattr(cell, name)
    if value not in known:
      raise types.InputError(
        f"A RIM cell's {name} must be one of {', '.join(known)}; got {value!r}."
      )
  least = {"embed": 0, "communication_heads": 0, "presence": 0}
  least |= {"active": 1, "rims": 1}
  least |= {"size": 1, "input_heads": 1, "input_keys": 1}
  least |= {"communication_keys": 1, "communication_values": 1}
  for name, bound in least.items():
    if getattr(cell, name) < bound:
      raise types.InputError(
        f"A RIM cell's {name} must be at least {bound}; got "
        f"{getattr(cell, name)}."
      )
  values = 4 * cell.size if cell.input_values is None else cell.input_values
  if values < 1 or values % cell.input_heads:
    raise types.InputError(
      "A RIM cell's input_values must be a multiple of its input_heads, "
      f"{cell.input_heads}; got {values}."
    )
  for name in ("input_dropout", "communication_dropout"):
    if not 0 <= getattr(cell, name) < 1:
      raise types.InputError(
        f"A RIM cell's {name} must be in [0, 1); got {getattr(cell, name)}."
      )
  if cell.active > cell.rims:
    raise types.InputError(
      f"A RIM cell cannot have more active RIMs than RIMs, {cell.rims}; got "
      f"{cell.active}."
    )


def choose_active(null_RB: jax.Array, active: int) -> jax.Array:
  """Selects the RIMs with the least attention on the null row.

  Args:
    null_RB: attention on the null row, float.
    active: k_A, the number of RIMs to select.

  Returns:
    Bool [R, B]; k_A entries of each column are true. Ties are resolved in
    favour of the lower index, and no gradient flows into the attention.
  """
  null_RB = jax.lax.stop_gradient(null_RB)
  index_R = jnp.arange(null_RB.shape[0])
  # Comparing all pairs is several times faster on a CPU than sorting.
  less_RRB = null_RB[None] < null_RB[:, None]
  tied_RRB = null_RB[None] == null_RB[:, None]
  lower_RR = index_R[None, :] < index_R[:, None]
  before_RRB = less_RRB | (tied_RRB & lower_RR[:, :, None])
  return before_RRB.sum(axis=1) < active


def multiply(x_RBD: jax.Array, kernel_RDD: jax.Array) -> jax.Array:
  """Multiplies the rows of each RIM by the RIM's own matrix."""
  return jnp.einsum("rbd,rde->rbe", x_RBD, kernel_RDD)


# The backward pass recomputes elementwise operations. In a scan that is faster
# than storing their results, because a scan copies what it stores twice.
_recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


@_recomputed
def lstm(c_RBD, gates_RBD):
  """Returns the new (c, h) of an LSTM, given the sum of its products."""
  i, f, g, o = jnp.split(gates_RBD, 4, axis=-1)
  c_RBD = jax.nn.sigmoid(f) * c_RBD + jax.nn.sigmoid(i) * jnp.tanh(g)
  return c_RBD, jax.nn.sigmoid(o) * jnp.tanh(c_RBD)


@_recomputed
def gru(h_RBD, input_RBD, recurrent_RBD, bias_RD):
  """Returns the new (h,) of a GRU, given its two products."""
  reset, update, new = jnp.split(input_RBD, 3, axis=-1)
  reset_h, update_h, new_h = jnp.split(recurrent_RBD, 3, axis=-1)
  reset = jax.nn.sigmoid(reset + reset_h)
  update = jax.nn.sigmoid(update + update_h)
  new = jnp.tanh(new + reset * (new_h + bias_RD[:, None]))
  return ((1 - update) * new + update * h_RBD,)


def _init_recurrent(key, shape):
  """Draws an orthogonal matrix for each gate of each RIM."""
  rims, size, gates = shape
  keys = jax.random.split(key, (rims, gates // size))
  square = lambda key: nn.initializers.orthogonal()(key, (size, size))
  kernel_RGDD = jax.vmap(jax.vmap(square))(keys)
  return kernel_RGDD.swapaxes(1, 2).reshape(shape)


def _init_both(key, shape):
  """Draws the rows for the values that a RIM reads, and those for its state."""
  rims, fan_in, gates = shape
  size = gates // 4
  read_RDD = _kernel_init(rng.stream(key, "read"), (rims, fan_in - size, gates))
  state_RDD = _init_recurrent(rng.stream(key, "state"), (rims, size, gates))
  return jnp.concatenate([read_RDD, state_RDD], axis=1)
