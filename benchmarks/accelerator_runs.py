"""Parts of an update, whole runs and their input, on an accelerator."""

import collections
import functools
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np

from benchmarks import cases, measured
from benchmarks import parts as parts_lib

# A run has its result when restored images are recognised as well as clean ones
# but for this share.
POINTS, EVERY = 0.02, 50


def parts(case: cases.Case) -> dict[str, Any]:
  """Times the parts of an update, each compiled separately."""
  setup = measured.make_setup(case.image, dtype=case.dtype, form=case.form)
  _, shapes = cases.make_program(case)
  state, batch = (cases.draw(tree) for tree in shapes)
  row = {"kind": "parts", **case._asdict()}
  for name, (function, args) in parts_lib.make_parts(
    setup, state, batch
  ).items():
    if name == "step":
      continue
    # Outputs of experts are the one argument without a value.
    args = jax.tree.map(
      lambda a: (
        np.random.default_rng(0).random(a.shape, np.float32)
        if isinstance(a, jax.ShapeDtypeStruct)
        else a
      ),
      args,
    )
    args = jax.device_put(args)
    compiled = jax.jit(function).lower(*args).compile()

    def run(count, compiled=compiled, args=args):
      for _ in range(count):
        result = compiled(*args)
      jax.block_until_ready(result)

    row[f"{name}_ms"] = 1e3 * cases.seconds(run)[0]
  return row


def kernels(case: cases.Case, *, calls: int = 3, most: int = 30) -> dict:
  """Profiles updates.

  Returns:
    `busy_ms`, the sum of all kernels of an update; and `top`, the longest ones:
    milliseconds and number in an update, operation of the compiled program
    (empty within a graph of the device), and name.
  """
  _, shapes = cases.make_program(case)
  state, batch = (cases.draw(tree) for tree in shapes)
  program = cases.lower(case).compile()
  state, _ = jax.block_until_ready(program(state, batch))
  sums, counts = collections.Counter(), collections.Counter()
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(calls):
        state, _ = program(state, batch)
      jax.block_until_ready(state)
    for path in pathlib.Path(folder).rglob("*.xplane.pb"):
      profile = jax.profiler.ProfileData.from_file(str(path))
      for plane in profile.planes:
        on_gpu = plane.name.startswith("/device:GPU")
        for line in plane.lines:
          # Other lines of a GPU repeat its streams, grouped by operations.
          if on_gpu and not line.name.startswith("Stream"):
            continue
          for event in line.events:
            operation = dict(event.stats).get("hlo_op", "")
            if on_gpu or operation:
              key = (str(operation), event.name[:90])
              sums[key] += event.duration_ns / calls / 1e6
              counts[key] += 1 / calls
  return {
    "kind": "kernels",
    **case._asdict(),
    "busy_ms": sum(sums.values()),
    "top": [
      [round(ms, 4), round(counts[key], 1), *key]
      for key, ms in sums.most_common(most)
    ],
  }


def _config(smallest, folder):
  from experiments.configs import mnist

  config = mnist.get_config("smoke" if smallest else "embedded")
  config.data.dir = str(pathlib.Path(folder, "data"))
  return config


def result(*, smallest: bool) -> dict[str, Any]:
  """Trains the config mnist.py, seed 0, with its 5,000 digits.

  Args:
    smallest: whether the mode is `smoke`, which finds nothing.

  Returns:
    `found_step` and `found_train_s`: updates, and their seconds, until every
    mechanism has an expert of its own and restored images are recognised to
    within 2 points of clean ones, None if they never are; and the seconds of
    the run's stages, with everything that is compiled.
  """
  from icm_jax.evaluation import specialisation
  from icm_jax.training import image_run, run_folder

  row = {"kind": "result", "found_step": None}
  with tempfile.TemporaryDirectory() as folder:
    config = _config(smallest, folder)
    if not smallest:
      config.every.evaluate = EVERY
    workdir = pathlib.Path(folder, "run")
    start = time.perf_counter()
    final = image_run.train(config, workdir)
    row["total_s"] = time.perf_counter() - start
    for metrics in run_folder.read_metrics(workdir):
      if row["found_step"] is not None or "evaluation/wins_EM" not in metrics:
        continue
      wins_EM = np.array(metrics["evaluation/wins_EM"])
      clean, restored = (
        np.mean(metrics[f"evaluation/accuracy/{name}_M"])
        for name in ("clean", "restored")
      )
      if specialisation.one_to_one(wins_EM) and restored >= clean - POINTS:
        row["found_step"] = metrics["step"]
        row["found_train_s"] = metrics["wall_s"]
    row["accuracy"] = final["classifier"]
    row |= {name: final[name] for name in ("found_steps", "time")}
    row["accuracy"].pop("per_mechanism")
  return row


def pipeline(batch: int, *, smallest: bool) -> dict[str, Any]:
  """Times the input pipeline of the config mnist.py, and updates with it.

  Returns:
    `images_per_s`, both halves of batches until they are on the device;
    `update_ms` of updates on one batch that is on the device; `fed_ms` of
    updates on batches of the pipeline; `waits`, the share of the latter's time
    that the former does not need.
  """
  from icm_jax.data import problem
  from icm_jax.training import build, image_run, networks

  with tempfile.TemporaryDirectory() as folder:
    config = _config(smallest, folder)
    config.train.batch_size = batch
    run = build.build(config)
  shapes, _ = networks.abstract_state(config, run.setup, None)
  raw = problem.draw_raw(run.problem, seed=0, step=0, batch_size=batch)
  step = functools.partial(image_run.raw_steps, run=run)
  program = jax.jit(step, donate_argnums=0).lower(shapes, [raw]).compile()
  init = functools.partial(networks.init_state, config=config, setup=run.setup)
  state = jax.jit(init)(jax.random.key(0))

  def batches(count):
    return problem.batches(
      run.problem, seed=0, steps=range(count), batch_size=batch
    )

  def read(count):
    for each in batches(count):
      jax.block_until_ready(each)

  def update(batches):
    nonlocal state
    for each in batches:
      state, _ = program(state, [each])
    jax.block_until_ready(state)

  raw = jax.device_put(raw)
  read_s, _ = cases.seconds(read)
  update_s, _ = cases.seconds(lambda count: update([raw] * count))
  fed_s, _ = cases.seconds(lambda count: update(batches(count)))
  return {
    "kind": "pipeline",
    "batch": batch,
    "images_per_s": 2 * batch / read_s,
    "update_ms": 1e3 * update_s,
    "fed_ms": 1e3 * fed_s,
    "waits": max(0.0, 1 - update_s / fed_s),
  }
