#!/bin/sh
# Makes an environment, by the first Python that can: `environment.sh FOLDER
# PYTHON...`. Says in one line what is missing.
set -eu
folder=$1
shift

fail() {
  echo "error: $1" >&2
  exit 2
}

python= incomplete=
for name; do
  # A name may be there and yet not run, as those of pyenv.
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
  fail "no Python from 3.11 on runs as one of: $*; install one or name it:\
 make PYTHON=FILE"
fi

compiler=
for name in "${CXX:-c++}" g++ clang++; do
  # $CXX may be a command with options.
  if command -v "${name%% *}" >/dev/null; then
    compiler=$name
    break
  fi
done
[ "$compiler" ] || echo "note: no C++ compiler is here; updates on CPUs take\
 several times longer without one (Debian, Ubuntu: apt install g++)" >&2

# What an interrupted installation left is of no use.
"$python" -m venv --clear "$folder"
