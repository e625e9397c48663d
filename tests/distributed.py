"""Runs on several devices, compared with one; ends with a table.

  python tests/distributed.py         all checks, minutes: make test-distributed
  python tests/distributed.py short   the checks of `make test`

Eight CPU devices are made from one. The exit code is 1 if a check fails.
"""

import functools
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import types as python_types
from collections.abc import Callable, Iterator
from typing import NamedTuple

# Before JAX is imported. The variable is the last of equal flags.
FLAGS = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{FLAGS} --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

# ruff: noqa: E402
import jax
import numpy as np
import optax

from icm_jax import competition, kernels, mechanisms, models, types
from icm_jax.competition import remedies
from icm_jax.data import augment, problem
from icm_jax.training import checkpoint, image_run, saved_run, sharding

ROOT = pathlib.Path(__file__).parent.parent
SHAPE_HWC = (8, 8, 1)
FEATURES = 4
STEPS = 20
TOLERANCE = 1e-5
WAIT_S = 1800  # For a run of seconds, on a machine with much else to do.
# The first port that JAX takes for processes of a cluster.
FIRST_PORT = 65536 - 2**12
# Largest ratio of a device's FLOPs to its share of those of one device.
MOST_FLOPS = 1.15
BYTES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1}


class Check(NamedTuple):
  """A line of the table."""

  what: str
  found: str
  wanted: str
  passed: bool


class Case(NamedTuple):
  """Networks, remedies and sizes of an update."""

  setup: types.Setup
  experts: int
  batch_size: int
  mechanisms: tuple = ()

  @property
  def run(self):
    """The parts of a run that an update uses."""
    return python_types.SimpleNamespace(
      setup=self.setup,
      mechanisms=self.mechanisms,
      augmentation=augment.NONE,
    )

  def init(self) -> types.TrainState:
    key = jax.random.key(0)
    return competition.init_state(key, self.setup, self.experts)

  def sizes(self) -> tuple[int, int]:
    """Numbers of parameters of all experts and of the discriminator."""
    state = jax.eval_shape(self.init)
    return tuple(
      sum(leaf.size for leaf in jax.tree.leaves(tree))
      for tree in (state.experts_E, state.discriminator)
    )

  def raws(self) -> list[problem.Raw]:
    rng = np.random.default_rng(0)
    shape = (STEPS, 2, self.batch_size, *SHAPE_HWC)
    images = rng.integers(0, 256, shape, np.uint8)
    return [problem.Raw(*pair) for pair in images]


def make_setup(norm="none", rate=1e-3, **fields) -> types.Setup:
  # Adam turns the rounding of a gradient that is 0, such as that of a bias
  # before batch normalisation, into steps of the full learning rate.
  tx = optax.sgd(rate) if norm == "batch" else optax.adam(rate)
  return types.Setup(
    models.from_linen(
      models.ConvExpert(features=FEATURES, norm=norm), SHAPE_HWC
    ),
    models.from_linen(
      models.ConvDiscriminator(features=2, hidden=8), SHAPE_HWC
    ),
    tx,
    tx,
    **fields,
  )


def referee() -> types.Network:
  # Biases before a normalisation have no gradient but rounding, which differs
  # between meshes, and which Adam scales up to whole steps.
  return models.from_linen(
    models.ConvClassifier(1, features=2, hidden=8), SHAPE_HWC
  )


def all_remedies() -> tuple[types.Remedy, ...]:
  """Every remedy, with experts that are moved often."""
  return (
    remedies.signature(2.0),
    remedies.places(1.0),
    remedies.referee(1.0, network=referee()),
    remedies.balance(3.0),
    remedies.winner_weight(0.5),
    remedies.r1(0.1),
    remedies.contrast(0.5),
    remedies.identity(1.0),
    remedies.change(0.1),
    remedies.averages(50.0),
    remedies.relocation(2, 0.9, 1.0),
  )


def make_mesh(data: int, expert: int) -> sharding.Mesh | None:
  size = data * expert
  if size == 1:
    return None
  devices = np.array(jax.devices()[:size]).reshape(data, expert)
  return sharding.Mesh(devices, ("data", "expert"))


def compile_update(case: Case, mesh: sharding.Mesh | None):
  """Compiles an update as runs do, with its mechanisms."""
  state = sharding.abstract(mesh, jax.eval_shape(case.init))
  raw = sharding.place_images(mesh, case.raws()[0])
  update = functools.partial(image_run.raw_step, run=case.run, mesh=mesh)
  # XLA does not count the operations of compiled functions.
  with kernels.use("xla"):
    return jax.jit(update).lower(state, raw).compile()


def train(case: Case, mesh: sharding.Mesh | None, update) -> types.TrainState:
  """Runs all steps; returns the state on the devices of the mesh."""
  state = sharding.make(mesh, jax.jit(case.init))
  for raw in case.raws():
    state, metrics = update(state, sharding.place_images(mesh, raw))
  assert np.isfinite(metrics["loss/expert"])
  return state


def difference(a: types.TrainState, b: types.TrainState) -> tuple[float, str]:
  """Largest difference of two states, and where; relative above 1."""
  worst = (0.0, "nothing differs")
  pairs = zip(by_name(a), by_name(b), strict=True)
  for (name, x), (_, y) in pairs:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    apart = np.abs(x - y) / np.maximum(np.abs(x), 1.0)
    worst = max(worst, (float(apart.max(initial=0.0)), name))
  return worst


def by_name(state: types.TrainState) -> list[tuple[str, np.ndarray]]:
  state = state.replace(key=jax.random.key_data(state.key))
  return [
    (jax.tree_util.keystr(path), jax.device_get(leaf))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  ]


def collectives(program) -> dict[str, int]:
  """Bytes of the results of a program's collective operations, by kind."""
  found: dict[str, int] = {}
  kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-[a-z]+"
  for line in program.as_text().splitlines():
    if match := re.search(rf"= (.*?) ({kinds})(?:-start)?\(", line):
      size = sum(
        BYTES[dtype] * int(np.prod([int(n) for n in shape.split(",") if n]))
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1])
      )
      found[match[2]] = found.get(match[2], 0) + size
  return found


def expected(case: Case, data: int, expert: int) -> dict[str, int]:
  """The formula of docs/scaling.md: what crosses in an update, in bytes."""
  names = [remedy.name for remedy in case.setup.remedies]
  outputs = case.experts * case.batch_size
  of_experts, of_discriminator = case.sizes()
  divided = data > 1, expert > 1
  # Scores of all outputs, joined over `expert` first if both axes have parts.
  gathered = outputs + (outputs // data if all(divided) else 0)
  if "places" in names:
    gathered *= 1 + 16
  if expert > 1:
    gathered += case.batch_size // data  # Scores of canonical images.
    if "relocation" in names:
      gathered += of_experts  # Only in steps in which experts are moved.
  reduced = of_discriminator + 1  # The remedies' loss.
  if data > 1:
    reduced += of_experts // expert + 1  # The discriminator's loss.
    if jax.eval_shape(case.init).expert_stats_E:
      # Mean and variance of four layers, forward and backward.
      reduced += 4 * 4 * FEATURES * case.experts // expert
    if "referee" in names:
      params, _ = jax.eval_shape(referee().init, jax.random.key(0))
      reduced += sum(leaf.size for leaf in jax.tree.leaves(params))
  return {"all-gather": 4 * gathered, "all-reduce": 4 * reduced}


def check_updates(
  name: str, case: Case, meshes: list[tuple[int, int]], *, flops: bool = True
) -> Iterator[Check]:
  """Numbers, collectives and FLOPs of an update on several meshes."""
  alone = compile_update(case, None)
  one = train(case, None, alone)
  for data, expert in meshes:
    mesh = make_mesh(data, expert)
    update = compile_update(case, mesh)
    label = f"{name}, {data} x {expert}"
    apart, where = difference(one, train(case, mesh, update))
    yield Check(
      f"{label}: from one device, {STEPS} steps",
      f"{apart:.1e} {where if apart > TOLERANCE else ''}",
      f"{TOLERANCE:.0e}",
      apart <= TOLERANCE,
    )
    found, wanted = collectives(update), expected(case, data, expert)
    yield Check(
      f"{label}: bytes that cross", str(found), str(wanted), found == wanted
    )
    count = data * expert
    ratio = (
      update.cost_analysis()["flops"] * count / alone.cost_analysis()["flops"]
    )
    yield Check(
      f"{label}: FLOPs a device, of 1/{count}",
      f"{ratio:.3f}",
      f"{MOST_FLOPS}" if flops else "(not asked for)",
      not flops or ratio <= MOST_FLOPS,
    )


def check_checkpoints(case: Case) -> Iterator[Check]:
  """A state that was saved on one mesh is read on others."""
  state = sharding.make(make_mesh(4, 2), jax.jit(case.init))
  with tempfile.TemporaryDirectory() as folder:
    checkpoints = checkpoint.Checkpoints(pathlib.Path(folder))
    checkpoints.save(checkpoint.Saved(state, {}, {"seconds": {}}))
    checkpoints.wait()
    for data, expert in ((8, 1), (2, 2), (1, 1)):
      like = sharding.abstract(
        make_mesh(data, expert), jax.eval_shape(case.init)
      )
      read = checkpoints.read_newest(like, {}).state
      apart, _ = difference(state, read)
      size = len(jax.tree.leaves(read.experts_E)[0].devices())
      yield Check(
        f"saved on 4 x 2, read on {data} x {expert}",
        f"{apart:.0e}, on {size}",
        f"0e+00, on {data * expert}",
        apart == 0 and size == data * expert,
      )
    checkpoints.close()


def check_seeds(case: Case) -> Iterator[Check]:
  """Eight seeds on eight devices, which do not communicate."""
  mesh = sharding.seed_mesh(8)
  update = functools.partial(image_run.raw_step, run=case.run)
  args = jax.eval_shape(case.init), case.raws()[0]
  stacked = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(
      (8, *a.shape), a.dtype, sharding=sharding.of_seeds(mesh)
    ),
    args,
  )
  with kernels.use("xla"):
    program = (
      jax.jit(sharding.over_seeds(update, mesh)).lower(*stacked).compile()
    )
  found = collectives(program)
  yield Check(
    f"8 seeds on {mesh.size} devices: bytes that cross",
    str(found),
    "{}",
    found == {} and mesh.size == 8,
  )


def short() -> Iterator[Check]:
  case = Case(
    make_setup(expert_map="unroll_blocks", remedies=all_remedies()),
    experts=4,
    batch_size=32,
    mechanisms=mechanisms.by_names(("right", "invert"), {}),
  )
  yield from check_updates("all remedies", case, [(4, 2)], flops=False)
  plain = Case(make_setup(expert_map="unroll_blocks"), 4, 32)
  yield from check_updates("no remedies", plain, [(8, 1)])
  yield from check_checkpoints(plain)


def long() -> Iterator[Check]:
  by_won_images = Case(
    make_setup(expert_map="unroll_blocks", remedies=all_remedies()),
    experts=8,
    batch_size=64,
    mechanisms=mechanisms.by_names(("right", "invert"), {}),
  )
  yield from check_updates(
    "all remedies", by_won_images, [(8, 1), (4, 2), (2, 4)], flops=False
  )
  rows, grids = [(2, 1), (4, 1), (8, 1)], [(4, 2), (2, 4), (1, 8)]
  plain = Case(make_setup(expert_map="unroll_blocks"), 8, 64)
  yield from check_updates("no remedies", plain, rows)
  masked = Case(make_setup(expert_map="vmap_masked"), 8, 64)
  yield from check_updates("masked", masked, rows + grids)
  # A device backpropagates as many outputs of an image as any device may have
  # to, so that this part is not divided over experts.
  few = Case(make_setup(expert_map="vmap_masked", losers=2), 8, 64)
  yield from check_updates("two losers", few, rows)
  yield from check_updates("two losers", few, grids, flops=False)
  # For 8 images a device, XLA's programs for CPUs have another convolution, and
  # 1.17 of the FLOPs.
  batch_norm = Case(make_setup("batch", expert_map="unroll"), 8, 128)
  yield from check_updates("batch norm", batch_norm, rows + grids)
  yield from check_checkpoints(plain)
  yield from check_seeds(plain)
  with tempfile.TemporaryDirectory() as folder:
    yield from check_runs(pathlib.Path(folder))


def start_run(
  folder: pathlib.Path,
  devices: int,
  steps: int,
  *more: str,
  variables: dict[str, str] | None = None,
) -> subprocess.Popen:
  """Starts, or resumes, a small run as a user does."""
  command = [sys.executable, "-m", "experiments.train", f"--workdir={folder}"]
  command += ["--config=experiments/configs/mnist.py:smoke"]
  command += ["--config.experts.count=4", "--config.train.batch_size=32"]
  command += [f"--config.train.steps={steps}", *more]
  is_one = not any(flag.startswith("--coordinator") for flag in more)
  if (folder / "config.json").exists() and is_one:
    command.append("--resume")
  flags = f"{FLAGS} --xla_force_host_platform_device_count={devices}"
  with folder.with_suffix(".log").open("a") as log:
    return subprocess.Popen(
      command,
      env=os.environ | {"XLA_FLAGS": flags} | (variables or {}),
      cwd=ROOT,
      stdout=log,
      stderr=log,
    )


def free_port(first: int = 0) -> int:
  """Returns a port that is free, from some number on; 0 is any."""
  while True:
    with socket.socket() as free:
      try:
        free.bind(("127.0.0.1", first))
        return free.getsockname()[1]
      except OSError:
        first += 1


def slurm(index: int, port: int) -> dict[str, str]:
  """Variables that SLURM's `srun` sets for one of two processes."""
  # JAX takes a port by the job's number.
  return {
    "SLURM_JOB_ID": str(port - FIRST_PORT),
    "SLURM_JOB_NODELIST": "localhost",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": str(index),
    "SLURM_LOCALID": str(index),
  }


def open_mpi(index: int, port: int) -> dict[str, str]:
  """Variables that Open MPI's `mpirun` sets for one of two processes."""
  job = (port - FIRST_PORT) * 2**12
  return {
    "OMPI_MCA_orte_hnp_uri": f"{job}.0;tcp://127.0.0.1,10.0.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": str(index),
    "OMPI_COMM_WORLD_LOCAL_RANK": str(index),
  }


def start_detected(
  folder: pathlib.Path, cluster: Callable[[int, int], dict[str, str]]
) -> list[subprocess.Popen]:
  """Starts two processes, which find each other by a cluster's variables."""
  port = free_port(FIRST_PORT)
  return [
    start_run(
      folder, 2, STEPS, "--coordinator=auto", variables=cluster(index, port)
    )
    for index in range(2)
  ]


def start_two(folder: pathlib.Path, steps: int) -> list[subprocess.Popen]:
  """Starts two processes of two devices each, which train one run."""
  port = free_port()
  return [
    start_run(
      folder,
      2,
      steps,
      f"--coordinator=127.0.0.1:{port}",
      "--processes=2",
      f"--process={index}",
    )
    for index in range(2)
  ]


def check_runs(root: pathlib.Path) -> Iterator[Check]:
  """Whole runs: on other devices than before, and by two processes."""

  def read(name: str) -> types.TrainState:
    return saved_run.open_run(root / name).saved.state

  codes = [start_run(root / "one", 1, STEPS).wait(WAIT_S)]
  plan = (("4", 4, 2, 8), ("8", 1, 1, 1), ("12", 2, 1, 2), ("16", 1, 4, 4))
  for steps, data, expert, devices in (*plan, (str(STEPS), 8, 1, 8)):
    mesh = f"--config.mesh.data={data}", f"--config.mesh.expert={expert}"
    codes.append(
      start_run(root / "many", devices, int(steps), *mesh).wait(WAIT_S)
    )
  yield Check("runs on 1 and on 8, 1, 2, 4, 8", str(codes), "0", not any(codes))
  apart, where = difference(read("one"), read("many"))
  yield Check(
    f"resumed on 8, 1, 2, 4, 8: from one device, {STEPS} steps",
    f"{apart:.1e} {where}",
    f"{TOLERANCE:.0e}",
    apart <= TOLERANCE,
  )
  evaluated = subprocess.run(
    [sys.executable, "-m", "experiments.evaluate", f"--workdir={root}/many"],
    env=os.environ | {"XLA_FLAGS": FLAGS},
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  yield Check(
    "experiments.evaluate on one device",
    (evaluated.stderr.strip().splitlines() or [""])[0],
    f"the checkpoint of step {STEPS}",
    evaluated.returncode == 0 and f"step {STEPS}" in evaluated.stderr,
  )
  codes = [
    start_run(root / "seed_2", 1, STEPS, "--config.seed=2").wait(WAIT_S),
    start_run(root / "seeds", 2, STEPS, "--seeds=0-3").wait(WAIT_S),
  ]
  apart, where = difference(read("seed_2"), read("seeds/seed_2"))
  yield Check(
    f"4 seeds on 2 devices: from a run of one seed, {STEPS} steps",
    f"{apart:.1e} {where}, exit codes {codes}",
    f"{TOLERANCE:.0e}",
    apart <= TOLERANCE and not any(codes),
  )
  codes = [process.wait(WAIT_S) for process in start_two(root / "two", STEPS)]
  apart, where = difference(read("one"), read("two"))
  yield Check(
    f"2 processes x 2 devices: from one device, {STEPS} steps",
    f"{apart:.1e} {where}, exit codes {codes}",
    f"{TOLERANCE:.0e}",
    apart <= TOLERANCE and not any(codes),
  )
  for cluster in (slurm, open_mpi):
    folder = root / cluster.__name__
    codes = [p.wait(WAIT_S) for p in start_detected(folder, cluster)]
    apart, where = difference(read("two"), read(cluster.__name__))
    yield Check(
      f"--coordinator=auto, {cluster.__name__}: from 2 processes by flags",
      f"{apart:.1e} {where}, exit codes {codes}",
      "0e+00",
      apart == 0 and not any(codes),
    )
  for victim in range(2):
    folder = root / f"without_{victim}"
    both = start_two(folder, 1_000_000)
    while not (folder / "metrics.jsonl").exists():
      time.sleep(0.2)
    time.sleep(5)
    both[victim].kill()
    killed = time.monotonic()
    code = both[1 - victim].wait(WAIT_S)
    seconds = time.monotonic() - killed
    named = (
      f"error: process {victim} on" in folder.with_suffix(".log").read_text()
    )
    yield Check(
      f"process {victim} of 2 is killed: end of the other",
      f"{seconds:.1f} s, exit code {code}, named {named}",
      "at most 60 s, 1, True",
      seconds <= 60 and code == 1 and named,
    )


def main() -> int:
  checks = []
  for check in short() if sys.argv[1:] == ["short"] else long():
    print(f"{'ok    ' if check.passed else 'FAILED'} {check.what}", flush=True)
    checks.append(check)
  print()
  for check in checks:
    print(
      f"{'ok    ' if check.passed else 'FAILED'}  {check.what:<50}  "
      f"{check.found}  (wanted: {check.wanted})"
    )
  failed = sum(not check.passed for check in checks)
  print(f"{len(checks) - failed} of {len(checks)} checks passed")
  return int(failed > 0)


if __name__ == "__main__":
  sys.exit(main())
