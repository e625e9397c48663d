"""Competing experts in front of a frozen classifier, on MNIST-C.

  python -m experiments.robustness --workdir=runs/robust
  python -m experiments.robustness --workdir=runs/robust \
      --config=mnist_c:full --config.data.manual_dir=DIR --benchmark=DIR

For every seed, it trains classifiers of clean digits; experts that learn eight
of the benchmark's fifteen corruptions from unlabelled images; one network that
learns the same alone; and experts of the paper's ten mechanisms. Then it
measures the errors of classifiers behind them, and of classifiers that adapt to
the test images or were trained with distorted ones, on every corruption.

Without --benchmark, the corruptions act on the test digits of the config. The
results are robustness.json, robustness.md and robustness.png. The same command
resumes; what is finished is not repeated. docs/robustness.md has the measured
table.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from flax import serialization
from ml_collections import config_flags

from experiments import console, kinds, launch, runs
from icm_jax import mechanisms, models, rng, types
from icm_jax.data import problem as problem_lib
from icm_jax.data import sources
from icm_jax.evaluation import augmix, test_time
from icm_jax.evaluation import classifier as classifier_lib
from icm_jax.learned import loading
from icm_jax.mechanisms import corruptions
from icm_jax.training import atomic_files, build, run_folder
from icm_jax.viz import robustness as viz
from icm_jax.viz import sweep as viz_sweep

CLEAN = "identity"  # The benchmark's name of clean images.
# Images that adapt a classifier at a time, as published for small images.
_ADAPT_BATCH = 200
_PREDICT_BATCH = 250
# Clean images that find the margin of a gate.
_GATE_EXAMPLES = 2_000

launch.define_workdir()
_CONFIG = config_flags.DEFINE_config_file(
  "config", str(launch.CONFIGS / "mnist_c.py"), lock_config=True
)
_SEEDS = flags.DEFINE_string("seeds", "0-2", "Seeds, as 0-2 or 0,3,5.")
_BENCHMARK = flags.DEFINE_string(
  "benchmark",
  "",
  'Folder or zip of MNIST-C; "" distorts the test digits of the config.',
)
_EXAMPLES = flags.DEFINE_integer(
  "examples", 1_000, "Most test images of each corruption.", lower_bound=1
)


class Method(NamedTuple):
  """A way to classify distorted images.

  Attributes:
    classifier: key of `CLASSIFIERS`.
    front: key of `FRONTS`, the run that restores images first; "" is none.
    adapts: "", "statistics" or "entropy", see `evaluation.test_time`.
  """

  classifier: str
  front: str = ""
  adapts: str = ""


# Methods by the columns of the table.
METHODS = {
  "plain": Method("plain"),
  "AugMix": Method("augmix"),
  "corruptions known": Method("corruptions"),
  "one network": Method("plain", "single"),
  "experts": Method("plain", "experts"),
  "paper's experts": Method("plain", "paper"),
  "normalised": Method("normalised"),
  "AdaBN": Method("normalised", adapts="statistics"),
  "TENT": Method("normalised", adapts="entropy"),
  "one network, normalised": Method("normalised", "single"),
  "experts, normalised": Method("normalised", "experts"),
  "paper's experts, normalised": Method("normalised", "paper"),
  "experts, TENT": Method("normalised", "experts", "entropy"),
}

# Classifiers by name: their normalisation.
CLASSIFIERS = {
  "plain": "none",
  "normalised": "batch",
  "augmix": "none",
  "corruptions": "none",
}


def _experts(config: ml_collections.ConfigDict) -> None:
  """Leaves the config as it is."""
  del config


def _single(config: ml_collections.ConfigDict) -> None:
  """One network for all corruptions; remedies between experts are left out."""
  config.experts.count = 1
  config.remedies.relocation.every = 0
  config.remedies.balance.weight = 0.0
  config.remedies.signature.weight = 0.0


def _paper(config: ml_collections.ConfigDict) -> None:
  """Experts of the paper's mechanisms, which are no corruptions."""
  config.mechanisms = mechanisms.PRESETS["paper"]
  config.experts.count = len(config.mechanisms.names)
  config.experts.network = "conv"
  config.experts.features *= 2
  config.train.batch_size = max(1, config.train.batch_size // 2)
  config.train.steps = max(1, config.train.steps // 2)


# Runs that restore images, by name: what differs from the config.
FRONTS: dict[str, Callable[[ml_collections.ConfigDict], None]] = {
  "experts": _experts,
  "single": _single,
  "paper": _paper,
}
# Experts of the paper's mechanisms in a row.
_CHAIN = 3


class Benchmark(NamedTuple):
  """Test images by corruption, clean ones first.

  Attributes:
    image_NHWC: uint8, by the benchmark's names.
    label_N: int32, by the benchmark's names.
    digest: changes with the images.
  """

  image_NHWC: Mapping[str, np.ndarray]
  label_N: Mapping[str, np.ndarray]
  digest: str


def read_benchmark(
  config: ml_collections.ConfigDict, folder: str, most: int
) -> Benchmark:
  """Reads MNIST-C.

  Args:
    config: config of the experts.
    folder: folder or zip of the benchmark.
    most: largest number of images of each corruption.

  Raises:
    InputError: files are missing or damaged.
  """
  path = pathlib.Path(folder).expanduser()
  data = sources.load(
    "mnist_c",
    image_size=config.data.image_size,
    data_dir=config.data.dir,
    manual_dir=str(path.parent if path.suffix == ".zip" else path),
  )
  name_N = data.images.columns["corruption"]
  ids = {
    name: np.flatnonzero(name_N == name)[:most]
    for name in (CLEAN, *corruptions.BENCHMARK)
  }
  if missing := [name for name, found in ids.items() if not len(found)]:
    raise types.InputError(
      f"--benchmark={folder} has no images of {', '.join(missing)}; all "
      "fifteen corruptions and `identity` are needed."
    )
  return _benchmark(
    {name: data.images.image_NHWC[found] for name, found in ids.items()},
    {name: data.images.label_N[found] for name, found in ids.items()},
  )


def make_benchmark(problem: problem_lib.Problem, most: int) -> Benchmark:
  """Distorts test images by the benchmark's corruptions, alike for all seeds.

  Args:
    problem: digits, whose test part is used.
    most: largest number of images of each corruption.
  """
  ids = problem.test_ids[:most]
  clean_NHWC = np.asarray(problem.images.image_NHWC[ids])
  images = {CLEAN: clean_NHWC}
  x_NHWC = problem_lib.to_float(jnp.asarray(clean_NHWC))
  for name, mechanism in corruptions.BENCHMARK.items():
    (function,) = mechanisms.by_names((mechanism,), {})
    key_N = jax.random.split(rng.stream(jax.random.key(0), name), len(ids))
    y_NHWC = jax.jit(jax.vmap(function))(key_N, x_NHWC)
    images[name] = np.round(255 * np.asarray(y_NHWC)).astype(np.uint8)
  label_N = np.asarray(problem.images.label_N[ids])
  return _benchmark(images, dict.fromkeys(images, label_N))


def _benchmark(images, labels) -> Benchmark:
  digest = hashlib.sha256()
  for array in (*images.values(), *labels.values()):
    digest.update(np.ascontiguousarray(array).tobytes())
  return Benchmark(images, labels, digest.hexdigest())


def front_config(
  name: str, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Returns the config of a run that restores images.

  Args:
    name: key of `FRONTS`.
    config: config of the experts.
  """
  changed = ml_collections.ConfigDict(config.to_dict())
  # The run's own classifier only draws its curve.
  changed.classifier.steps = max(1, changed.classifier.steps // 3)
  FRONTS[name](changed)
  return changed.lock()


def train_front(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  reporter: console.Plain | console.Bar,
) -> None:
  """Trains a run unless it has finished; resumes it if it was interrupted."""
  planned = runs.Planned(viz_sweep.SweepRun("", 0, workdir), (), config)
  if runs.is_finished(planned):
    return
  kind = kinds.from_config(config)
  result = kind.train(
    config,
    workdir,
    resume=run_folder.holds_run(workdir),
    reporter=reporter,
  )
  kind.write_report(workdir)
  reporter.say(kind.headline(result))


def train_classifier(
  name: str, config: ml_collections.ConfigDict, problem: problem_lib.Problem
) -> dict[str, types.PyTree]:
  """Trains a classifier on the digits of the training part.

  Args:
    name: key of `CLASSIFIERS`.
    config: config of the experts.
    problem: digits.

  Returns:
    `params` and `stats`.
  """
  options: dict[str, Any] = {}
  if name == "augmix":
    options = dict(views=augmix.views(config.seed), loss=augmix.loss)
  elif name == "corruptions":
    options = dict(views=_corrupted(config.seed))
  params, stats = classifier_lib.train_classifier(
    _network(name, problem),
    problem.images.image_NHWC,
    problem.images.label_N,
    problem.train_ids,
    seed=config.seed,
    **config.classifier,
    **options,
  )
  return {"params": jax.device_get(params), "stats": jax.device_get(stats)}


def _network(name: str, problem: problem_lib.Problem) -> types.Network:
  num_classes = int(problem.images.label_N.max()) + 1
  module = models.ConvClassifier(num_classes, norm=CLASSIFIERS[name])
  return models.from_linen(module, problem.shape_HWC)


def _corrupted(seed: int) -> classifier_lib.Views:
  """Shows each image clean or under one corruption, all equally often."""
  functions = mechanisms.by_names(tuple(corruptions.BENCHMARK.values()), {})
  choices = (lambda key, x_HWC: x_HWC, *functions)

  @jax.jit
  def distort(image_BHWC, step):
    key = rng.stream(jax.random.key(seed), "corruptions known", step)
    x_BHWC = problem_lib.to_float(image_BHWC)
    x_BHWC, _ = mechanisms.apply_mixture(key, x_BHWC, choices)
    return jnp.round(255 * x_BHWC).astype(jnp.uint8)

  return lambda image_BHWC, step: distort(image_BHWC, jnp.int32(step))


def read_or_train_classifiers(
  folder: pathlib.Path,
  config: ml_collections.ConfigDict,
  problem: problem_lib.Problem,
  say: Callable[[str], None],
) -> dict[str, dict[str, types.PyTree]]:
  """Trains the classifiers that the folder does not have yet.

  Args:
    folder: folder of the seed.
    config: config of the experts.
    problem: digits.
    say: receives messages.

  Returns:
    By the names of `CLASSIFIERS`, `params` and `stats`.
  """
  asked = {**config.classifier, "data": dict(problem.images.digests)}
  trained = {}
  for name in CLASSIFIERS:
    path = folder / f"{name}.msgpack"
    network = _network(name, problem)
    params, stats = jax.eval_shape(network.init, jax.random.key(0))
    empty = {
      "asked": json.dumps(asked, sort_keys=True),
      "params": params,
      "stats": stats,
    }
    found = _read(path, empty)
    if found is None:
      say(f"training a classifier: {name}")
      found = {**empty, **train_classifier(name, config, problem)}
      atomic_files.write_bytes(path, serialization.to_bytes(found))
    trained[name] = found
  return trained


def _read(path: pathlib.Path, like: dict[str, Any]) -> dict[str, Any] | None:
  """Reads a classifier; None if there is none, or one of another config."""
  if not path.exists():
    return None
  try:
    found = serialization.from_bytes(like, path.read_bytes())
  # msgpack and flax raise many kinds of errors for damaged files.
  except Exception:
    return None
  return found if found["asked"] == like["asked"] else None


class Measured(NamedTuple):
  """What one seed measured.

  Attributes:
    error: percent of wrong classes, by method and corruption.
    milliseconds: time of a method for an image, restoration included.
    kept: percent of images that the experts leave alone, by front and
      corruption.
  """

  error: dict[str, dict[str, float]]
  milliseconds: dict[str, float]
  kept: dict[str, dict[str, float]]


def measure(
  fronts: Mapping[str, loading.Learned],
  classifiers: Mapping[str, dict[str, types.PyTree]],
  benchmark: Benchmark,
  problem: problem_lib.Problem,
) -> Measured:
  """Classifies the benchmark by every method.

  Args:
    fronts: runs that restore images, by the names of `FRONTS`.
    classifiers: by the names of `CLASSIFIERS`, `params` and `stats`.
    benchmark: test images.
    problem: digits of which the classifiers were made.
  """
  # Clean images that the fronts' discriminators have not seen.
  gate_ids = problem.clean_ids[:_GATE_EXAMPLES]
  gate_NHWC = np.asarray(problem.images.image_NHWC[gate_ids])
  shown: dict[str, dict[str, np.ndarray]] = {"": {}}
  kept: dict[str, dict[str, float]] = {}
  seconds = {"": 0.0}
  for name, image_NHWC in benchmark.image_NHWC.items():
    shown[""][name] = image_NHWC.astype(np.float32) / 255
  for front, learned in fronts.items():
    margin = learned.find_margin(gate_NHWC)
    restore = functools.partial(_restore, front, learned, margin)
    restore(shown[""][CLEAN][: loading.BATCH_SIZE])  # Compiles.
    started = time.perf_counter()
    restored = {name: restore(x_NHWC) for name, x_NHWC in shown[""].items()}
    seconds[front] = time.perf_counter() - started
    shown[front] = {name: x_NHWC for name, (x_NHWC, _) in restored.items()}
    kept[front] = {
      name: 100 * float(alone_N.mean())
      for name, (_, alone_N) in restored.items()
    }
  count = sum(map(len, benchmark.label_N.values()))
  error: dict[str, dict[str, float]] = {}
  milliseconds = {}
  for column, method in METHODS.items():
    classify = _classify(method, classifiers[method.classifier], problem)
    classify(shown[method.front][CLEAN])  # Compiles.
    started = time.perf_counter()
    error[column] = {
      name: 100 * float(np.mean(classify(x_NHWC).argmax(-1) != label_N))
      for (name, x_NHWC), label_N in zip(
        shown[method.front].items(), benchmark.label_N.values(), strict=True
      )
    }
    spent = time.perf_counter() - started + seconds[method.front]
    milliseconds[column] = 1_000 * spent / count
  return Measured(error, milliseconds, kept)


def _restore(front, learned, margin, x_NHWC):
  """Restored images, and which the gate left alone."""
  if front == "paper":
    found = learned.chain(x_NHWC, margin=margin, max_length=_CHAIN, width=1)
    return found.restored_BHWC, found.expert_BL[:, 0] == loading.LEFT_ALONE
  found = learned.restore(x_NHWC, margin=margin)
  return found.restored_BHWC, found.winner_B == loading.LEFT_ALONE


def _classify(method, trained, problem) -> test_time.Classify:
  network = _network(method.classifier, problem)
  parts = (network, trained["params"], trained["stats"])
  if method.adapts == "statistics":
    return test_time.with_batch_statistics(*parts, batch_size=_ADAPT_BATCH)
  if method.adapts == "entropy":
    return test_time.tent(*parts, batch_size=_ADAPT_BATCH)
  return test_time.frozen(*parts, batch_size=_PREDICT_BATCH)


def run_seed(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  benchmark: str,
  most: int,
  reporter: console.Plain | console.Bar,
) -> Measured:
  """Trains and measures one seed, or reads what it has measured before.

  Args:
    workdir: folder of the seed.
    config: config of the experts, with the seed.
    benchmark: folder or zip of MNIST-C, or "".
    most: largest number of images of each corruption.
    reporter: receives messages and progress.
  """
  data = build.load_data(config, progress=reporter.prepare)
  problem = build.make_problem(config, data)
  if benchmark:
    tests = read_benchmark(config, benchmark, most)
  else:
    tests = make_benchmark(problem, most)
  asked = {
    "config": run_folder.plain_config(run_folder.absolute(config)),
    "benchmark": tests.digest,
  }
  path = workdir / "errors.json"
  if path.exists():
    found = atomic_files.read_json(path)
    if found.pop("asked", None) == asked:
      return Measured(**found)
  for name in FRONTS:
    reporter.say(f"{workdir.name}: {name}")
    train_front(workdir / name, front_config(name, config), reporter)
  classifiers = read_or_train_classifiers(
    workdir, config, problem, reporter.say
  )
  reporter.say(f"{workdir.name}: measuring")
  fronts = {name: loading.load(workdir / name) for name in FRONTS}
  measured = measure(fronts, classifiers, tests, problem)
  atomic_files.write_json(path, {"asked": asked, **measured._asdict()})
  return measured


def main() -> None:
  root, reporter = launch.workdir(), console.reporter()
  kinds.check_keys(_CONFIG.value)
  seeds = runs.parse_seeds(_SEEDS.value)
  measured = []
  for seed in seeds:
    config = ml_collections.ConfigDict(_CONFIG.value.to_dict())
    config.seed = seed
    folder = root / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    measured.append(
      run_seed(
        folder, config.lock(), _BENCHMARK.value, _EXAMPLES.value, reporter
      )
    )
  page = viz.write(
    root,
    seeds=seeds,
    errors=[one.error for one in measured],
    milliseconds=[one.milliseconds for one in measured],
    kept=[one.kept for one in measured],
    clean=CLEAN,
  )
  reporter.say((root / viz.TABLE).read_text())
  reporter.say(f"open {page}")


if __name__ == "__main__":
  launch.run(main)
