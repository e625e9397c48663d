"""Sweeps on a cluster, with stand-ins for SLURM's commands."""

import argparse
import importlib.util
import os
import pathlib
import shutil
import signal
import sys
import time

import pytest

from experiments import cluster, job, runs
from icm_jax import types
from icm_jax.training import atomic_files, run_folder

# ml_collections loads config files by a deprecated function.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")

needs_submitit = pytest.mark.skipif(
  importlib.util.find_spec("submitit") is None, reason="no package submitit"
)
OPTIONS = ("time=1:00:00", "partition=gpu", "gpus-per-node=1")
# Runs the jobs of an array at the same time, and again where `scontrol requeue`
# was called meanwhile.
SBATCH = """\
#!/bin/sh
cp "$1" submitted.sh
if [ -e refuse ]; then
  echo "sbatch: error: no such partition" >&2; exit 1
fi
echo "Submitted batch job 17"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
export SLURM_JOB_ID=17
for index in $(seq 0 ${last:-0}); do
  [ "$last" ] && export SLURM_ARRAY_JOB_ID=17 SLURM_ARRAY_TASK_ID=$index
  sh -c 'while :; do
    sh submitted.sh; [ -e again ] || break; rm again
  done; touch ended_$SLURM_ARRAY_TASK_ID' < /dev/null > out 2>&1 &
done
"""
SRUN = """\
#!/bin/sh
while [ "$1" != -u ]; do before=$1; shift; done
echo $$ > job
exec "$before" "$@" > "srun_$SLURM_ARRAY_TASK_ID" 2>&1
"""
# Saves at SIGINT, which takes until there is a file `go`. SIGTERM ends it.
SAVES = """
import os, pathlib, signal, sys, time
if os.path.exists("saved"):
  sys.exit("resumed")
stopped = []
def stop(*_):
  if stopped: os._exit(1)
  stopped.append(True)
signal.signal(signal.SIGINT, stop)
with open("new", "w") as file: file.write(str(os.getpid()))
os.rename("new", "run")
while not (stopped and os.path.exists("go")): time.sleep(0.02)
open("saved", "w")
sys.exit(130)
"""
COMMANDS = {
  "sbatch": SBATCH,
  "srun": SRUN,
  "scontrol": '#!/bin/sh\n[ "$*" = "requeue 17" ] && touch again\n',
  "squeue": "#!/bin/sh\ncat queue 2> /dev/null || :\n",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
  """A folder with a made-up SLURM, which is also the current one."""
  (tmp_path / "bin").mkdir()
  for name, text in COMMANDS.items():
    (tmp_path / "bin" / name).write_text(text)
    (tmp_path / "bin" / name).chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.fixture
def submit(slurm, monkeypatch):
  """A function that submits runs of a made-up program."""

  def submit(seeds, *command):
    plans = runs.plan(pathlib.Path("sweep"), "mnist:smoke", (), [""], seeds)
    monkeypatch.setattr(
      runs,
      "command",
      lambda planned: [*command, planned.run.workdir.name],
    )
    said = []
    cluster.submit(pathlib.Path("sweep"), plans, OPTIONS, said.append)
    return plans, said

  return submit


def wait_for(*paths):
  limit = time.monotonic() + 300  # On a machine with much else to do.
  while not all(path.exists() for path in paths):
    assert time.monotonic() < limit, [str(path) for path in paths]
    time.sleep(0.05)


@needs_submitit
def test_every_run_is_a_job_unless_it_is_finished_or_queued(submit, slurm):
  plans, said = submit([0, 1], "sh", "-c", "echo did $0; exit ${0#seed_}")
  assert said[0].startswith("0 of 2 runs are finished already, 0 are queued")
  assert "submitted 2 runs as job 17" in said[1]
  wait_for(slurm / "ended_0", slurm / "ended_1")
  script = (slurm / "submitted.sh").read_text()
  for line in ("time=1:00:00", "partition=gpu", "gpus-per-node=1", "requeue"):
    assert f"#SBATCH --{line}\n" in script
  for seed in (0, 1):
    log = pathlib.Path(f"sweep/as_it_is/seed_{seed}.log")
    assert log.read_text() == f"did seed_{seed}\n"
  assert "completed successfully" in (slurm / "srun_0").read_text()
  assert "job.Failed: did seed_1 (see " in (slurm / "srun_1").read_text()
  # The first run has its result, and the job of the second is in the queue.
  folder = plans[0].run.workdir
  folder.mkdir()
  config = run_folder.plain_config(run_folder.absolute(plans[0].config))
  result = dict(config=config, seed=0, steps=1, time={}, versions={})
  atomic_files.write_json(folder / run_folder.RESULT, result)
  (slurm / "queue").write_text("16\n17_1\n")
  _, said = submit([0, 1], "false")
  assert said[0].startswith("1 of 2 runs are finished already, 1 are queued")
  assert len(said) == 2


@needs_submitit
@pytest.mark.parametrize(
  "signals",
  [[signal.SIGUSR2], [signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2]],
)
def test_a_run_saves_before_its_job_ends_and_goes_on(signals, submit, slurm):
  """Signals reach all processes of a job, as SLURM sends them."""
  submit([0], sys.executable, "-c", SAVES)
  wait_for(slurm / "run")
  for number in signals:
    for name in ("run", "job"):
      os.kill(int((slurm / name).read_text()), number)
  (slurm / "go").touch()
  wait_for(slurm / "ended_")
  assert (slurm / "saved").exists()
  log = slurm / "sweep" / "as_it_is" / "seed_0.log"
  assert log.read_text() == "resumed\n"


@needs_submitit
def test_a_signal_while_a_run_is_started_stops_it(tmp_path, monkeypatch):
  """Other threads receive signals that the main thread blocks."""
  start = job.start

  def start_and_signal(command, log):
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    return start(command, log)

  monkeypatch.setattr(job, "start", start_and_signal)
  monkeypatch.setattr(job, "_STAY_S", 0)
  monkeypatch.setattr(
    "submitit.JobEnvironment", lambda: argparse.Namespace(num_tasks=1)
  )
  # Shells let what they start in the background ignore SIGINT, and processes
  # hand that on. Unlike `sleep`, a run has a handler of its own.
  before = {
    number: signal.getsignal(number)
    for number in (signal.SIGTERM, signal.SIGINT)
  }
  signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with pytest.raises(job.Failed, match="exit code -2"):
      job.Job(["sleep", "20"], tmp_path / "log")()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


@needs_submitit
def test_what_sbatch_says_is_one_line(submit, slurm, capfd):
  (slurm / "refuse").touch()
  with pytest.raises(types.InputError, match="refuses.*no such partition"):
    submit([0], "true")
  assert not capfd.readouterr().err


def test_missing_commands_and_packages_are_named(submit, monkeypatch):
  monkeypatch.setattr(shutil, "which", lambda name: None)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
  with pytest.raises(types.InputError, match="sbatch, which this machine"):
    submit([0], "true")
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(types.InputError, match=r"icm-jax\[slurm\]"):
    submit([0], "true")


@pytest.mark.parametrize(
  ("text", "minutes"),
  [
    ("90", 90),
    ("90:30", 91),
    ("4:00:00", 240),
    ("1-0", 1440),
    ("1-2:30", 1590),
    ("0-0:00:59", 1),
  ],
)
def test_time_limits_are_those_of_sbatch(text, minutes):
  assert cluster.read_options([f"time={text}"])["slurm_time"] == minutes


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ((), "time=LIMIT is needed"),
    (("time=soon",), "Got 'soon'"),
    (("time=5", "partition="), "got 'partition='"),
    (("time=5", "=gpu"), "NAME=VALUE; got '=gpu'"),
    (("time=5", "array=0-3"), "sets array itself"),
    (("time=5", "array_parallelism=few"), "positive number; got 'few'"),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(types.InputError, match=message):
    cluster.read_options(options)
