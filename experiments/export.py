"""Exports what a run has learned, for programs without this package.

  python -m experiments.export --workdir=runs/mnist --out=OUT

The program writes to OUT: restore.jax, StableHLO for CPUs, CUDA and TPUs that
jax.export reads, with the parameters in it; parameters.safetensors, the
parameters alone; config.json, the networks that these belong to; and README.md,
a model card in the format of Hugging Face's Hub. --onnx=PYTHON also writes
restore.onnx, which needs another environment (docs/use.md). Nothing is uploaded
unless --push=USER/NAME asks for it, which needs: pip install "icm-jax[hub]".
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import tempfile

import numpy as np
from absl import flags

import icm_jax
from experiments import console, launch
from icm_jax import types
from icm_jax.learned import export, loading, model_card
from icm_jax.training import atomic_files

PROGRAM = "restore.jax"
PARAMETERS = "parameters.safetensors"
NETWORKS = "config.json"
CARD = "README.md"
MODEL = "restore.onnx"
FILES = (PROGRAM, PARAMETERS, NETWORKS, CARD, MODEL)
# What ONNX may differ by: less than an eighth of a grey level of 8 bits.
_MOST_OFF = 5e-4
_CHECKED = 64


def define_flags() -> None:
  """Defines the flags of the program."""
  launch.define_workdir()
  flags.DEFINE_string("out", None, "Folder for what is written.", required=True)
  flags.DEFINE_integer("steps", None, "Checkpoint; default: the newest one.")
  flags.DEFINE_string(
    "onnx", "", "Python that has jax2onnx; default: no restore.onnx."
  )
  flags.DEFINE_string("push", "", "USER/NAME on the Hub; default: no upload.")
  flags.DEFINE_bool("overwrite", False, "Whether files may be overwritten.")


def check_hub() -> None:
  """Makes sure that there is a client of the Hub.

  Raises:
    InputError: the package huggingface_hub is not installed.
  """
  if importlib.util.find_spec("huggingface_hub") is None:
    raise types.InputError(
      '--push needs huggingface_hub; run: pip install "icm-jax[hub]"'
    )


def write_onnx(learned: loading.Learned, out: pathlib.Path, python: str) -> str:
  """Writes `restore.onnx` with another Python, and checks what it computes.

  Args:
    learned: the run.
    out: folder of the other exported files.
    python: the other Python; it does not have this package.

  Returns:
    By how much the model differs from the run, in words.

  Raises:
    InputError: the other Python does not exist, or lacks a package; or the
      run's winners depend on more than scores.
    Failed: the model cannot be made, or computes something else.
  """
  if deciding := export.deciding_remedies(learned):
    raise types.InputError(
      "ONNX is written for runs whose winners have the best scores; in "
      f"{learned.workdir}, {', '.join(deciding)} decides too. Leave out "
      "--onnx; the other files restore as the run does."
    )
  rng = np.random.default_rng(0)
  images = rng.random((_CHECKED, *learned.shape_HWC), np.float32)
  found = learned.restore(images)._asdict()
  expected = {name.partition("_")[0]: array for name, array in found.items()}
  program = pathlib.Path(__file__).with_name("export_onnx.py")
  package = pathlib.Path(icm_jax.__file__).parent
  with tempfile.TemporaryDirectory() as folder:
    images_file = pathlib.Path(folder, "images.npz")
    np.savez(images_file, images=images, **expected)
    try:
      done = subprocess.run(
        [python, "-P", program, out, package, images_file],
        # The last line of an error is then its message.
        env={**os.environ, "JAX_TRACEBACK_FILTERING": "off"},
        capture_output=True,
        text=True,
        check=False,
      )
    except OSError as error:
      raise types.InputError(
        f"--onnx={python} cannot be run ({error.strerror}); name the Python of "
        "an environment with jax2onnx, see docs/use.md."
      ) from error
  if done.returncode:
    lines = done.stderr.split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "no word")
    if last.startswith("ModuleNotFoundError"):
      raise types.InputError(
        f"--onnx={python} lacks a package ({last}); docs/use.md says what it "
        "must have."
      )
    raise launch.Failed(f"{out / MODEL} cannot be made: {last}")
  off = json.loads(done.stdout.splitlines()[-1])
  if off["winner"] < 1 or not off["restored"] <= _MOST_OFF:
    (out / MODEL).unlink()
    raise launch.Failed(
      f"{MODEL} was removed, because it computes something else on "
      f"{_CHECKED} random images: {off}."
    )
  return (
    f"{MODEL} differs by at most {off['restored']:.1e} in pixels, "
    f"{off['score']:.1e} in scores and {off['change']:.1e} in changes, on "
    f"{_CHECKED} random images"
  )


def push(out: pathlib.Path, repository: str) -> str:
  """Uploads the exported files, and nothing else in their folder.

  Args:
    out: folder of the files.
    repository: `USER/NAME`; made, for its owner's eyes only, if there is none.

  Returns:
    The address of the commit.

  Raises:
    Failed: the Hub, or the way to it, refused; the files are still there.
  """
  import huggingface_hub

  api = huggingface_hub.HfApi()
  try:
    api.create_repo(repository, private=True, exist_ok=True)
    commit = api.upload_folder(
      repo_id=repository, folder_path=out, allow_patterns=list(FILES)
    )
  # The client and the libraries under it raise many kinds.
  except Exception as error:
    raise launch.Failed(
      f"The upload to {repository} failed: {launch.one_line(error)} The files "
      f"are in {out}."
    ) from error
  return commit.commit_url


def main() -> None:
  f, say = flags.FLAGS, console.reporter().say
  if f.push:
    check_hub()
  out = pathlib.Path(f.out).expanduser()
  # A model of an earlier export would not fit to the other files.
  launch.check_free(out, [out / name for name in FILES])
  learned = icm_jax.load(launch.workdir(), steps=f.steps)
  say(f"step {learned.steps}; exporting for {', '.join(export.PLATFORMS)}")
  card = model_card.write(
    learned,
    program=PROGRAM,
    parameters=PARAMETERS,
    networks=NETWORKS,
    platforms=export.PLATFORMS,
    model=MODEL if f.onnx else "",
  )
  program, parameters = export.program(learned), export.parameters(learned)
  try:
    out.mkdir(parents=True, exist_ok=True)
    (out / MODEL).unlink(missing_ok=True)
    atomic_files.write_bytes(out / PROGRAM, program)
    atomic_files.write_bytes(out / PARAMETERS, parameters)
    atomic_files.write_json(out / NETWORKS, export.networks(learned))
    atomic_files.write_bytes(out / CARD, card.encode())
  except OSError as error:
    raise types.InputError(launch.cannot_write(out, error)) from error
  say(f"wrote {out}: {len(program) / 1e6:.1f} MB of program")
  if f.onnx:
    say(write_onnx(learned, out, f.onnx))
  if f.push:
    say(f"uploaded to {push(out, f.push)}")


if __name__ == "__main__":
  define_flags()
  launch.run(main)
