"""Recurrent independent mechanisms: a cell whose parts compete for its input.

After Goyal et al., *Recurrent Independent Mechanisms*, ICLR 2021 (arXiv
1909.10893), Sec. 2. k small recurrent networks, the RIMs, have states and
parameters of their own. At every time step:

1. each asks, by its state, for the input or for a row of zeros, the null row;
2. the k_A that look least at the null row are active;
3. active ones read the input and step; the states of others stay as they are;
4. active ones ask all RIMs, and add what they hear to their states.

`RIMCell` takes the place of Flax's `LSTMCell` or `GRUCell`. Where the authors'
programs do other than their paper, a field of the cell chooses; the paper's way
is the default.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from icm_jax import rng, types
from icm_jax.models import active_rows, attention

KINDS = ("lstm", "gru")
COMPUTATIONS = ("masked", "gathered")
COMMUNICATIONS = ("residual", "gated")
GRADIENTS = ("all", "active")

# Glorot's, of each RIM on its own.
_kernel_init = nn.initializers.variance_scaling(
  1.0, "fan_avg", "uniform", batch_axis=(0,)
)


class RIMCell(nn.RNNCellBase):
  """k recurrent networks, of which k_A step at a time.

  The carry is `(c_BRD, h_BRD)` for LSTMs, `h_BRD` for GRUs; the output is the
  new h of all RIMs, [B, R * D]. There may be any number of batch axes, none
  too. With a mutable collection `intermediates`, a step leaves there
  `active_BR`, bool, and `null_BR`, float in [0, 1], the attention on the null
  row, mean over heads.

  Gradients are first ones, in reverse mode: on a CPU, calls of our own have no
  others.

  Dropout, of attention weights, takes keys from the stream `dropout`; in
  `nn.RNN` that needs `split_rngs={"params": False, "dropout": True}`.

  Attributes:
    rims: k.
    active: k_A, in [1, k]. Ties go to the lower index.
    size: units of one RIM.
    kind: "lstm" or "gru".
    embed: features of the input, embedded before the null row is added. It has
      a bias, so that an input of zeros differs from no input. 0 takes the input
      as it is, as the authors' program for sequential MNIST does; then zeros
      are read as the null row is.
    presence: logits, at first, by which the first k_A RIMs prefer an input to
      none, that is to one of zeros only, and the others none to an input. Each
      RIM's is a parameter. So from the start some RIMs read, and keep what they
      have read while nothing comes. 0 is the paper's way: there is none, and
      which RIMs are active depends on states alone.
    input_keys: features of a key.
    input_values: features of the values of all heads together; None is 4 *
      size.
    input_heads: heads of the input attention.
    input_dropout: rate in [0, 1).
    communication_keys: features of a key.
    communication_values: features of a value.
    communication_heads: 0 turns communication off.
    communication_dropout: rate in [0, 1).
    communication: "residual" adds what is heard, mapped to a state's size; it
      may grow without bound, for what RIMs that rest have heard is heard again.
      "gated", of the authors' programs, adds sigmoid(a) * tanh(b) of two maps.
    communication_gradient: "all" lets gradients through what is heard reach
      all RIMs; "active", of the authors' programs, only the active ones.
    computation: "masked" steps all RIMs and keeps k_A of the results;
      "gathered" gives the same, and multiplies only rows of active RIMs by the
      parameters that inactive ones do not need: of a step, and of what they
      ask for and hear.
    deterministic: no dropout.

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
  computation: str = "masked"
  deterministic: bool = True

  @property
  def num_feature_axes(self) -> int:
    return 1

  @nn.nowrap
  def initialize_carry(self, key, input_shape: tuple[int, ...]):
    """States of zeros for an input of this shape; `key` is not used."""
    del key
    h_BRD = jnp.zeros((*input_shape[:-1], self.rims, self.size))
    return (h_BRD, h_BRD) if self.kind == "lstm" else h_BRD

  @nn.compact
  def __call__(self, carry, x_BF):
    check(self)
    batch = x_BF.shape[:-1]
    # RIMs lead inside, so that products of each RIM's own move no data.
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
    stepped = self._step(states, read_RBD, active_RB)
    *rest, h_RBD = jax.tree.map(keep, stepped, states)
    if self.communication_heads:
      heard_RBD = self._communicate(h_RBD, active_RB)
      h_RBD = keep(h_RBD + heard_RBD, h_RBD)
    shape = (*batch, self.rims, self.size)
    states = tuple(s.swapaxes(0, 1).reshape(shape) for s in (*rest, h_RBD))
    out_BD = states[-1].reshape(*batch, self.rims * self.size)
    return states if self.kind == "lstm" else states[0], out_BD

  def _ask_input(self, h_RBD, x_BF, is_there_B):
    """Attention on the input, [R, B, A] in [0, 1], and its values, [B, A, D].

    The null row's key and value are zeros, for there is no bias. So its logit
    is 0, the softmax over both rows is a sigmoid, and only the input's value is
    read.
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

  def _step(self, states, read_RBD, active_RB):
    """New states of RIMs; those of inactive ones are not to be used."""
    size, fan_in = self.size, read_RBD.shape[-1]
    *rest, h_RBD = states
    if self.kind == "lstm":
      shape = (self.rims, fan_in + size, 4 * size)
      both_RBD = jnp.concatenate([read_RBD, h_RBD], axis=-1)
      kernel_RDD = self.param("kernel", _init_both, shape)
      bias_RD = self.param("bias", nn.initializers.zeros, (self.rims, 4 * size))
      gates_RBD = self._multiply(both_RBD, kernel_RDD, active_RB)
      return lstm(*rest, gates_RBD + bias_RD[:, None])
    shape = (self.rims, fan_in, 3 * size)
    kernel_RDD = self.param("kernel", _kernel_init, shape)
    bias_RD = self.param("bias", nn.initializers.zeros, (self.rims, 3 * size))
    read_RBD = self._multiply(read_RBD, kernel_RDD, active_RB)
    shape = (self.rims, size, 3 * size)
    kernel_RDD = self.param("recurrent", _init_recurrent, shape)
    shape = (self.rims, size)
    recurrent_bias = self.param("recurrent_bias", nn.initializers.zeros, shape)
    recurrent_RBD = self._multiply(h_RBD, kernel_RDD, active_RB)
    return gru(
      h_RBD, read_RBD + bias_RD[:, None], recurrent_RBD, recurrent_bias
    )

  def _communicate(self, h_RBD, active_RB):
    """What active RIMs hear from all of them, in a state's size."""
    heads = self.communication_heads
    keys, values = self.communication_keys, self.communication_values
    told_RBD = h_RBD
    if self.communication_gradient == "active":
      told_RBD = jnp.where(
        active_RB[:, :, None], h_RBD, jax.lax.stop_gradient(h_RBD)
      )

    def split(x_RBD):
      return x_RBD.reshape(*x_RBD.shape[:2], heads, -1)

    query = self._map("communication_query", h_RBD, heads * keys, active_RB)
    key = self._map("communication_key", told_RBD, heads * keys)
    value = self._map("communication_value", told_RBD, heads * values)
    dropout = nn.Dropout(
      self.communication_dropout, deterministic=self.deterministic
    )
    shape = (*h_RBD.shape[:2], heads, self.rims)
    factor_RBAR = dropout(jnp.ones(shape, h_RBD.dtype))
    heard_RBAD = attention.attend(
      split(query), split(key), split(value), factor_RBAR, active_RB
    )
    heard_RBD = heard_RBAD.reshape(*h_RBD.shape[:2], heads * values)
    out_RBD = self._map("communication_out", heard_RBD, self.size, active_RB)
    if self.communication == "residual":
      return out_RBD
    gate_RBD = self._map("communication_gate", heard_RBD, self.size, active_RB)
    return jax.nn.sigmoid(gate_RBD) * jnp.tanh(out_RBD)

  def _map(self, name, x_RBD, features, active_RB=None):
    """A linear map of each RIM's own, of all or of active ones."""
    shape = (self.rims, x_RBD.shape[-1], features)
    kernel_RDD = self.param(name, _kernel_init, shape)
    return self._multiply(x_RBD, kernel_RDD, active_RB)

  def _multiply(self, x_RBD, kernel_RDD, active_RB):
    """Each RIM's rows by its own matrix.

    If it is told which are active, rows of others are not to be used.
    """
    if active_RB is None or self.computation == "masked":
      return jnp.einsum("rbd,rde->rbe", x_RBD, kernel_RDD)
    count = self.active * active_RB.shape[1]
    return active_rows.multiply(x_RBD, kernel_RDD, active_RB, count)


def check(cell: RIMCell) -> None:
  """Checks that the cell's fields lie in their ranges.

  Raises:
    InputError: the first one that does not.
  """
  for name, known in (
    ("kind", KINDS),
    ("computation", COMPUTATIONS),
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
  """The RIMs with the least attention on the null row.

  Args:
    null_RB: attention on the null row.
    active: k_A.

  Returns:
    Bool; k_A of each column are true. Ties go to the lower index, and no
    gradient flows into the attention.
  """
  null_RB = jax.lax.stop_gradient(null_RB)
  index_R = jnp.arange(null_RB.shape[0])
  # A few comparisons; on CPU a sort takes several times longer.
  less_RRB = null_RB[None] < null_RB[:, None]
  tied_RRB = null_RB[None] == null_RB[:, None]
  lower_RR = index_R[None, :] < index_R[:, None]
  before_RRB = less_RRB | (tied_RRB & lower_RR[:, :, None])
  return before_RRB.sum(axis=1) < active


# What is cheap is computed again in the backward pass: in a scan, to keep it
# takes longer, for whatever is kept is copied twice.
_recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


@_recomputed
def lstm(c_RBD, gates_RBD):
  """One step of an LSTM from the sum of its products; the new (c, h)."""
  i, f, g, o = jnp.split(gates_RBD, 4, axis=-1)
  c_RBD = jax.nn.sigmoid(f) * c_RBD + jax.nn.sigmoid(i) * jnp.tanh(g)
  return c_RBD, jax.nn.sigmoid(o) * jnp.tanh(c_RBD)


@_recomputed
def gru(h_RBD, input_RBD, recurrent_RBD, bias_RD):
  """One step of a GRU from its products; the new (h,)."""
  reset, update, new = jnp.split(input_RBD, 3, axis=-1)
  reset_h, update_h, new_h = jnp.split(recurrent_RBD, 3, axis=-1)
  reset = jax.nn.sigmoid(reset + reset_h)
  update = jax.nn.sigmoid(update + update_h)
  new = jnp.tanh(new + reset * (new_h + bias_RD[:, None]))
  return ((1 - update) * new + update * h_RBD,)


def _init_recurrent(key, shape):
  """An orthogonal matrix for each gate of each RIM."""
  rims, size, gates = shape
  keys = jax.random.split(key, (rims, gates // size))
  square = lambda key: nn.initializers.orthogonal()(key, (size, size))
  kernel_RGDD = jax.vmap(jax.vmap(square))(keys)
  return kernel_RGDD.swapaxes(1, 2).reshape(shape)


def _init_both(key, shape):
  """Rows for what is read, and for the state."""
  rims, fan_in, gates = shape
  size = gates // 4
  read_RDD = _kernel_init(rng.stream(key, "read"), (rims, fan_in - size, gates))
  state_RDD = _init_recurrent(rng.stream(key, "state"), (rims, size, gates))
  return jnp.concatenate([read_RDD, state_RDD], axis=1)
