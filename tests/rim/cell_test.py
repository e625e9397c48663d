"""The RIM cell, compared with the paper's equations and its documentation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from icm_jax import types
from icm_jax.rim import cell as cell_lib

FIELDS = dict(
  rims=4,
  active=2,
  size=3,
  embed=5,
  input_keys=2,
  input_values=6,
  input_heads=2,
  communication_keys=2,
  communication_values=3,
  communication_heads=2,
)
BATCH, STEPS, INPUTS = 9, 4, 2


def make(**fields):
  return cell_lib.RIMCell(**(FIELDS | fields))


def draw(seed, *shape):
  return np.asarray(jax.random.normal(jax.random.key(seed), shape))


@pytest.fixture(scope="module")
def ran(draw_params):
  """A function: a cell's params, and all that it does on a sequence."""

  @functools.cache
  def run(**fields):
    cell = make(**fields)
    x_TBF = draw(1, STEPS, BATCH, INPUTS)
    start = cell.initialize_carry(jax.random.key(0), x_TBF.shape[1:])
    # A state that differs by RIM, so that attention does too.
    start = jax.tree.map(lambda a: draw(2, *a.shape), start)
    params = draw_params(lambda key: cell.init(key, start, x_TBF[0]))["params"]

    @jax.jit
    def scan(params, start, x_TBF):
      def step(carry, x_BF):
        (after, out), left = cell.apply(
          {"params": params}, carry, x_BF, mutable="intermediates"
        )
        left = {k: v[0] for k, v in left["intermediates"].items()}
        return after, (after, out, left)

      return jax.lax.scan(step, start, x_TBF)[1]

    return params, start, x_TBF, scan

  return run


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def plain_step(p, states, x_F, fields):
  """Sec. 2 of the paper for one sequence, RIM by RIM; the new states."""
  lstm = fields.get("kind", "lstm") == "lstm"
  embedded = x_F @ p["embed"]["kernel"] + p["embed"]["bias"]
  rows = np.stack([embedded, np.zeros_like(embedded)])  # Input, null row.
  h_RD = states[-1]
  reads, nulls = [], []
  for r in range(fields["rims"]):
    read, null = [], []
    for a in range(fields["input_heads"]):
      keys = rows @ p["input_key"]["kernel"][:, a]
      values = rows @ p["input_value"]["kernel"][:, a]
      query = (h_RD[r] @ p["input_query"][r]).reshape(2, -1)[a]
      weights = softmax(keys @ query / np.sqrt(len(query)))
      read.append(weights @ values)
      null.append(weights[1])
    reads.append(np.concatenate(read))
    nulls.append(np.mean(null))
  active = np.argsort(nulls, kind="stable")[: fields["active"]]

  new = [state.copy() for state in states]
  for r in active:
    kernel, bias = p["kernel"][r], p["bias"][r]
    if lstm:
      gates = np.concatenate([reads[r], h_RD[r]]) @ kernel + bias
      i, f, g, o = np.split(gates, 4)
      new[0][r] = sigmoid(f) * states[0][r] + sigmoid(i) * np.tanh(g)
      new[1][r] = sigmoid(o) * np.tanh(new[0][r])
    else:
      ir, iz, in_ = np.split(reads[r] @ kernel + bias, 3)
      hr, hz, hn = np.split(h_RD[r] @ p["recurrent"][r], 3)
      z = sigmoid(iz + hz)
      n = np.tanh(in_ + sigmoid(ir + hr) * (hn + p["recurrent_bias"][r]))
      new[0][r] = (1 - z) * n + z * h_RD[r]

  told = new[-1].copy()
  for r in active:
    heard = []
    for a in range(fields["communication_heads"]):
      part = lambda name, s, a=a: (
        told[s] @ p[f"communication_{name}"][s]
      ).reshape(fields["communication_heads"], -1)[a]
      everyone = range(fields["rims"])
      query = part("query", r)
      keys = np.stack([part("key", s) for s in everyone])
      values = np.stack([part("value", s) for s in everyone])
      heard.append(softmax(keys @ query / np.sqrt(len(query))) @ values)
    new[-1][r] = told[r] + np.concatenate(heard) @ p["communication_out"][r]
  return new, nulls, active


@pytest.mark.parametrize("kind", cell_lib.KINDS)
def test_the_cell_equals_the_papers_equations(ran, kind):
  params, start, x_TBF, scan = ran(kind=kind)
  carries, out_TBD, left = scan(params, start, x_TBF)
  p = jax.tree.map(np.asarray, params)
  states = [np.asarray(s) for s in jax.tree.leaves(start)]
  for t in range(STEPS):
    for b in range(BATCH):
      new, nulls, active = plain_step(
        p, [s[b] for s in states], x_TBF[t, b], FIELDS | {"kind": kind}
      )
      for state, expected in zip(jax.tree.leaves(carries), new, strict=True):
        np.testing.assert_allclose(state[t, b], expected, atol=1e-5)
      np.testing.assert_allclose(left["null_BR"][t, b], nulls, atol=1e-5)
      assert set(np.flatnonzero(left["active_BR"][t, b])) == set(active)
    states = [np.asarray(s[t]) for s in jax.tree.leaves(carries)]
  np.testing.assert_array_equal(
    out_TBD, states_of(carries)[-1].reshape(STEPS, BATCH, -1)
  )


def states_of(carries):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(carries)]


def test_k_rims_are_active_and_other_states_stay_bit_identical(ran):
  params, start, x_TBF, scan = ran()
  carries, _, left = scan(params, start, x_TBF)
  active_TBR = np.asarray(left["active_BR"])
  assert (active_TBR.sum(axis=2) == 2).all()
  assert len(np.unique(active_TBR.reshape(-1, 4), axis=0)) > 1
  for after, before in zip(states_of(carries), states_of(start), strict=True):
    before = np.concatenate([before[None], after[:-1]])
    np.testing.assert_array_equal(after[~active_TBR], before[~active_TBR])
    assert (after[active_TBR] != before[active_TBR]).any(axis=-1).all()


def test_permuted_rims_have_permuted_states(ran):
  params, start, x_TBF, scan = ran()
  order = np.array([2, 0, 3, 1])
  shared = ("embed", "input_key", "input_value")
  permuted = {k: v if k in shared else v[order] for k, v in params.items()}
  carries, _, _ = scan(params, start, x_TBF)
  moved, _, _ = scan(
    permuted, jax.tree.map(lambda s: s[:, order], start), x_TBF
  )
  for state, expected in zip(states_of(moved), states_of(carries), strict=True):
    np.testing.assert_allclose(state, expected[:, :, order], atol=1e-6)


def test_rows_of_a_batch_are_independent(ran):
  params, start, x_TBF, scan = ran()
  _, out_TBD, _ = scan(params, start, x_TBF)
  other_TBF = x_TBF.copy()
  other_TBF[:, 4] = draw(9, STEPS, INPUTS)
  _, changed_TBD, _ = scan(params, start, other_TBF)
  same = np.arange(BATCH) != 4
  np.testing.assert_array_equal(out_TBD[:, same], changed_TBD[:, same])
  assert (out_TBD[:, 4] != changed_TBD[:, 4]).any()


def test_rims_read_nothing_from_inputs_without_information(ran):
  params, start, x_TBF, scan = ran(embed=0, communication_heads=0)
  carries, _, left = scan(params, start, 0 * x_TBF)
  # Both rows are zeros: attention is equal, and RIMs read zeros.
  np.testing.assert_array_equal(left["null_BR"], 0.5)
  silent = dict(params, input_value=jax.tree.map(jnp.zeros_like, {
    "kernel": params["input_value"]["kernel"]
  }))  # fmt: skip
  unread, _, _ = scan(silent, start, 0 * x_TBF)
  for a, b in zip(states_of(carries), states_of(unread), strict=True):
    np.testing.assert_array_equal(a, b)
  # A RIM that prefers the null row has all its attention there.
  query_RD = np.asarray(params["input_query"]).copy()
  query_RD[1] = 0
  query_RD[1, 0] = -1e4
  key = {"kernel": jnp.ones_like(params["input_key"]["kernel"])}
  chosen = dict(params, input_query=query_RD, input_key=key)
  start = jax.tree.map(np.abs, start)
  _, _, left = scan(chosen, start, np.abs(x_TBF) + 0.5)
  np.testing.assert_allclose(left["null_BR"][0, :, 1], 1, atol=1e-5)
  assert not left["active_BR"][0, :, 1].any()


@pytest.mark.parametrize("reach", cell_lib.GRADIENTS)
def test_gradients_reach_inactive_states(ran, reach):
  params, start, x_TBF, scan = ran(communication_gradient=reach)
  _, _, left = scan(params, start, x_TBF[:1])
  active_BR = np.asarray(left["active_BR"][0])

  def value(start, weight_BR):
    carries, _, _ = scan(params, start, x_TBF[:1])
    return (carries[1][0].sum(axis=-1) * weight_BR).sum()

  grad = jax.jit(jax.grad(value))
  idle = np.asarray(grad(start, 1.0 * ~active_BR)[1])
  # States of inactive RIMs are kept, and so is their gradient.
  np.testing.assert_array_equal(idle[~active_BR], 1)
  busy = np.asarray(grad(start, 1.0 * active_BR)[1])
  heard = np.abs(busy[~active_BR]).max()
  assert heard > 0 if reach == "all" else heard == 0
  assert np.abs(busy[active_BR]).max() > 0


def test_gradients_reach_through_time(ran):
  params, start, x_TBF, scan = ran(communication_heads=0, active=1)
  x_TBF = x_TBF[:2]
  _, _, left = scan(params, start, x_TBF)
  asleep_BR = ~np.asarray(left["active_BR"]).any(axis=0)
  assert asleep_BR.any()
  value = lambda start: (scan(params, start, x_TBF)[0][1][-1]).sum()
  grad_BRD = np.asarray(jax.jit(jax.grad(value))(start)[1])
  np.testing.assert_array_equal(grad_BRD[asleep_BR], 1)


def test_the_cell_can_be_differentiated_forwards_and_twice(ran):
  params, start, x_TBF, scan = ran()
  x_TBF = x_TBF[:2, :3]
  start = jax.tree.map(lambda state: state[:3], start)

  def value(start):
    return (scan(params, start, x_TBF)[1] ** 2).sum()

  direction = jax.tree.map(lambda state: draw(3, *state.shape), start)
  product = lambda a, b: sum(
    (x * y).sum()
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )

  @jax.jit
  def derivatives(start):
    gradient, change = jax.jvp(jax.grad(value), (start,), (direction,))
    return (
      jax.jvp(value, (start,), (direction,))[1],
      product(gradient, direction),
      product(change, direction),
    )

  forward, reverse, second = derivatives(start)
  np.testing.assert_allclose(forward, reverse, rtol=1e-4)
  gradient = jax.jit(jax.grad(value))
  moved = lambda by: jax.tree.map(lambda s, d: s + by * d, start, direction)
  slopes = [product(gradient(moved(by)), direction) for by in (-1e-3, 1e-3)]
  np.testing.assert_allclose(
    second, (slopes[1] - slopes[0]) / 2e-3, rtol=0.02, atol=0.02
  )


def test_the_cell_takes_any_batch_and_vmap(ran):
  params, start, x_TBF, _ = ran()
  cell = make()
  apply = lambda carry, x: cell.apply({"params": params}, carry, x)
  (_, h_BRD), out_BD = jax.jit(apply)(start, x_TBF[0])
  # A single row has no batch axis at all.
  (_, mapped_BRD), mapped_BD = jax.jit(jax.vmap(apply))(start, x_TBF[0])
  np.testing.assert_allclose(h_BRD, mapped_BRD, atol=1e-6)
  np.testing.assert_allclose(out_BD, mapped_BD, atol=1e-6)
  assert out_BD.shape == (BATCH, 12)
  carry = cell.initialize_carry(jax.random.key(0), (2, 5, INPUTS))
  assert carry[0].shape == (2, 5, 4, 3)


def test_dropout_has_a_key_of_its_own(draw_params):
  cell = make(input_dropout=0.5, communication_dropout=0.5, deterministic=False)
  layer = nn.RNN(cell, split_rngs={"params": False, "dropout": True})
  x_BTF = draw(5, BATCH, STEPS, INPUTS)
  first, second = jax.random.split(jax.random.key(0))
  params = draw_params(lambda key: nn.RNN(make()).init(key, x_BTF))
  apply = jax.jit(lambda key: layer.apply(params, x_BTF, rngs={"dropout": key}))
  np.testing.assert_array_equal(apply(first), apply(first))
  assert (np.asarray(apply(first)) != np.asarray(apply(second))).any()


def test_gated_communication_adds_no_more_than_one(ran):
  params, start, x_TBF, scan = ran(communication="gated")
  assert "communication_gate" in params
  carries, _, _ = scan(params, start, x_TBF[:1])
  silent, start, x_TBF, quiet = ran(communication_heads=0)
  alone, _, _ = quiet({k: params[k] for k in silent}, start, x_TBF[:1])
  change = np.abs(np.asarray(carries[1]) - np.asarray(alone[1]))
  assert 0 < change.max() <= 1


@pytest.mark.parametrize("embed", [0, 5])
def test_presence_splits_rims_into_readers_and_keepers(embed):
  cell = make(embed=embed, presence=50.0)
  x_BF = jnp.array([[0.0, 0.0], [0.0, -1e-3], [2.0, 0.0]])
  carry = cell.initialize_carry(jax.random.key(0), x_BF.shape)
  params = cell.init(jax.random.key(1), carry, x_BF)
  _, left = jax.jit(functools.partial(cell.apply, mutable="intermediates"))(
    params, carry, x_BF
  )
  (active_BR,) = left["intermediates"]["active_BR"]
  readers, others = [True, True, False, False], [False, False, True, True]
  np.testing.assert_array_equal(active_BR, [others, readers, readers])
  (null_BR,) = left["intermediates"]["null_BR"]
  np.testing.assert_allclose(null_BR, ~active_BR, atol=1e-6)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"active": 5}, "more active RIMs than RIMs, 4; got 5"),
    ({"active": 0}, "active must be at least 1; got 0"),
    ({"kind": "rnn"}, "kind must be one of lstm, gru; got 'rnn'"),
    ({"input_values": 5}, "multiple of its input_heads, 2; got 5"),
    ({"input_dropout": 1.0}, r"input_dropout must be in \[0, 1\); got 1.0"),
    ({"embed": -1}, "embed must be at least 0; got -1"),
    ({"presence": -1.0}, "presence must be at least 0; got -1.0"),
  ],
)
def test_bad_fields_are_refused(fields, message):
  with pytest.raises(types.InputError, match=message):
    cell_lib.check(make(**fields))


def test_ties_go_to_the_lower_index():
  null_RB = jnp.array([[0.5, 0.9], [0.5, 0.1], [0.5, 0.1], [0.5, 0.8]])
  active_RB = cell_lib.choose_active(null_RB, 2)
  np.testing.assert_array_equal(active_RB.T, [[1, 1, 0, 0], [0, 1, 1, 0]])
