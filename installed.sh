#!/bin/sh
# Installs this package into an environment of its own, outside the checkout, and
# uses it there as anybody would: `installed.sh PYTHON`. Each step must succeed.
set -eu
python=$1
checkout=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv here
"$python" -m venv elsewhere
elsewhere/bin/pip install --quiet jax flatbuffers
mkdir pictures

set -x
here/bin/pip install --quiet "$checkout[embedded]"
here/bin/icm train --config=mnist:smoke --workdir=run
here/bin/python -c 'import icm_jax; print(icm_jax.load("run").mechanisms)'
here/bin/python -c 'import numpy, PIL.Image; PIL.Image.fromarray(
  numpy.zeros((40, 30), "uint8")).save("pictures/black.jpg")'
here/bin/icm restore --workdir=run --images=pictures --out=restored
here/bin/icm export --workdir=run --out=exported
elsewhere/bin/python -c 'import jax, numpy
with open("exported/restore.jax", "rb") as file:
  restore = jax.export.deserialize(bytearray(file.read()))
print(restore.call(numpy.zeros((7, 32, 32, 1), "float32"))["restored"].shape)'
here/bin/icm versions
