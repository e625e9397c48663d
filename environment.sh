#!/bin/sh
# Makes an environment with the first suitable Python: `environment.sh FOLDER
# PYTHON...`. If something is missing, one line says what.
set -eu
folder=$1
shift

fail() {
  echo "error: $1" >&2
  exit 2
}

python= incomplete=
for name; do
  # A command may exist and not run, such as the shims of pyenv.
  if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
  then
    if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
      python=$name
      break
    fi
    incomplete=$name
  fi
done
if [ -z "$python" ]; then
  [ -z "$incomplete" ] || fail "$incomplete cannot make environments; install\
 its module venv (Debian, Ubuntu: apt install python3-venv) or name another\
 Python: make PYTHON=FILE"
  fail "found no Python of version 3.11 or newer as: $*; install one or name\
 it: make PYTHON=FILE"
fi

compiler=
for name in "${CXX:-c++}" g++ clang++; do
  # $CXX may be a command with options.
  if command -v "${name%% *}" >/dev/null; then
    compiler=$name
    break
  fi
done
[ "$compiler" ] || echo "note: found no C++ compiler; without one, updates on\
 CPUs take several times longer (Debian, Ubuntu: apt install g++)" >&2

# --clear removes the rest of an interrupted installation.
"$python" -m venv --clear "$folder"
