"""Times runs from the start of the process until all mechanisms are undone.

  make bench-result RESULT="--seeds=0,1,2 --mode=full"

The clock stops at the first evaluation (there is one every 50 updates) at which
every mechanism has an expert of its own, which wins at least 90 % of its
images, and restored images are recognised to within 2 points of clean ones.
There are ten experts. The data is the embedded digits, or all of MNIST,
prepared in advance from its original files in --manual_dir.

Ours is `experiments.train` with the default config. Everything in it counts,
including the training of the evaluation classifier, which is free for PyTorch.
PyTorch's run is `benchmarks/torch_reference.py` with the paper's schedule: an
identity start until every expert's error is below 0.002, for at most 500
updates, then at most 2,000 updates, Adam with its default parameters, batches
of 32. Only its updates count; its batches and evaluations are made here.

Prints one JSON object per seed, and one of medians: `ours_s`, `ours_steps`,
`torch_s`, `torch_steps`; `..._found` is false if the result was not reached,
and the time is then that of all updates. `ratio` is our time divided by
PyTorch's.
"""

import functools
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import torch_process
from experiments.configs import mnist
from icm_jax.data import problem as problem_lib
from icm_jax.evaluation import classifier as classifier_lib
from icm_jax.evaluation import specialisation
from icm_jax.training import build, run_folder

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of both programs.")
_TORCH = flags.DEFINE_string("torch", "", "A Python that has PyTorch.")
_MODE = flags.DEFINE_enum(
  "mode", "embedded", ["embedded", "full"], "Mode of the config mnist.py."
)
_MANUAL_DIR = flags.DEFINE_string("manual_dir", "", "Original files of MNIST.")
_STEPS = flags.DEFINE_integer("torch_steps", 2_000, "Most updates of PyTorch.")

EVERY, POINTS = 50, 0.02
COPY_STEPS, COPY_MSE, BATCH = 500, 0.002, 32


def is_found(wins_EM: np.ndarray, restored: float, clean: float) -> bool:
  """Returns whether all mechanisms are undone."""
  return specialisation.one_to_one(wins_EM) and restored >= clean - POINTS


def ours(seed: int) -> dict[str, float]:
  """Runs the program until an evaluation in its metrics has the result."""
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder, "run")
    start = time.perf_counter()
    process = subprocess.Popen(
      [
        *(sys.executable, "-m", "experiments.train"),
        f"--config=experiments/configs/mnist.py:{_MODE.value}",
        f"--config.data.manual_dir={_MANUAL_DIR.value}",
        f"--config.every.evaluate={EVERY}",
        f"--config.seed={seed}",
        f"--workdir={workdir}",
      ],
      stderr=subprocess.DEVNULL,
    )
    try:
      while process.poll() is None:
        time.sleep(0.2)
        for row in evaluations(workdir):
          if is_found(*row[1:]):
            seconds = time.perf_counter() - start
            return {"s": seconds, "steps": row[0], "found": True}
      steps = [row[0] for row in evaluations(workdir)]
      seconds = time.perf_counter() - start
      return {"s": seconds, "steps": steps[-1], "found": False}
    finally:
      if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait()


def evaluations(workdir: pathlib.Path):
  """Returns step, wins, restored and clean accuracy of evaluations so far."""
  if not (workdir / run_folder.METRICS).exists():
    return []
  return [
    (
      row["step"],
      np.array(row["evaluation/wins_EM"]),
      statistics.mean(row["evaluation/accuracy/restored_M"]),
      statistics.mean(row["evaluation/accuracy/clean_M"]),
    )
    for row in run_folder.read_metrics(workdir)
    if "evaluation/wins_EM" in row
  ]


def theirs(seed: int, python: str) -> dict[str, float]:
  """Trains the reference on the batches that our run of this seed sees."""
  config = mnist.get_config(_MODE.value)
  config.seed = seed
  config.data.manual_dir = _MANUAL_DIR.value
  run = build.build(config)
  classifier, _ = classifier_lib.train_classifier(
    run.classifier,
    run.problem.images.image_NHWC,
    run.problem.images.label_N,
    run.problem.train_ids,
    seed=seed,
    **config.classifier,
  )
  predict = jax.jit(classifier_lib.classify(run.classifier))
  key = jax.random.key(seed)
  make = jax.jit(
    functools.partial(problem_lib.make_batch, mechanisms=run.mechanisms)
  )
  examples = run.curve.examples
  right = lambda x: float((predict(classifier, x) == examples.label_N).mean())
  clean = right(examples.clean_NHWC)
  seconds = 0.0
  with (
    tempfile.TemporaryDirectory() as folder,
    torch_process.TorchProcess(python, "torch_reference.py") as reference,
  ):
    x, y, canonical = (os.path.join(folder, f"{n}.npy") for n in "xyc")

    def write(step):
      raw = problem_lib.draw_raw(
        run.problem, seed=seed, step=step, batch_size=BATCH
      )
      batch = make(key, jnp.int32(step), raw)
      np.save(x, batch.transformed_BHWC)
      np.save(canonical, batch.canonical_BHWC)

    shape = run.problem.shape_HWC
    start = time.perf_counter()
    reference.ask(do="make", experts=10, batch=BATCH, image=shape, seed=seed)
    seconds += time.perf_counter() - start
    for step in range(COPY_STEPS):
      write(step)
      answer = reference.ask(do="copy", x=x)
      seconds += answer["seconds"]
      if max(answer["errors"]) < COPY_MSE:
        break
    for step in range(_STEPS.value):
      write(step)
      seconds += reference.ask(do="step", x=x, canonical=canonical)["seconds"]
      if (step + 1) % EVERY == 0:
        np.save(x, examples.transformed_NHWC)
        winner_N = np.array(reference.ask(do="restore", x=x, y=y)["winners"])
        wins_EM = specialisation.count_wins(
          winner_N, examples.mechanism_N, num_experts=10, num_mechanisms=10
        )
        if is_found(wins_EM, right(np.load(y)), clean):
          return {"s": seconds, "steps": step + 1, "found": True}
  return {"s": seconds, "steps": _STEPS.value, "found": False}


def main(_) -> None:
  rows = []
  python = _TORCH.value
  for seed in map(int, _SEEDS.value):
    row = {"seed": seed}
    for name, result in (
      ("ours", ours(seed)),
      ("torch", theirs(seed, python) if python else {}),
    ):
      row |= {f"{name}_{key}": value for key, value in result.items()}
    rows.append(row)
    print(json.dumps(row), flush=True)
  medians = {
    name: round(statistics.median(row[name] for row in rows), 1)
    for name in ("ours_s", "torch_s")
    if name in rows[0]
  }
  if "torch_s" in medians:
    medians["ratio"] = round(medians["ours_s"] / medians["torch_s"], 3)
  print(json.dumps({"seeds": _SEEDS.value, **medians}))


if __name__ == "__main__":
  app.run(main)
