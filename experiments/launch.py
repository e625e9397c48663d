"""The start of all programs: flags, errors as one line, and exit codes."""

from __future__ import annotations

import logging as logging_lib
import os
import pathlib
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from experiments import interrupt, processes
from icm_jax import types
from icm_jax.training import atomic_files, train_loop

# Configs that come with the programs.
AUTO = "auto"  # A value of the flag `--resume`.
CONFIGS = pathlib.Path(__file__).parent / "configs"
BAD_INPUT = 2

_HELP = frozenset(["--help", "-help", "-h", "--helpshort"])
_SUGGESTION = re.compile(
  r"""\W*'(\w+)\\?'(?:\n|\\n)(Did you mean "\w+" instead of "\w+"\?)"""
)


_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_CONFIG = re.compile("--?config=")


class Failed(Exception):
  """A part of the task failed; the message says which."""


def define_workdir() -> None:
  """Defines the flag `--workdir`."""
  flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)


def workdir() -> pathlib.Path:
  """Returns the folder of the flag `--workdir`."""
  return pathlib.Path(flags.FLAGS.workdir).expanduser()


class _YesNoAuto(flags.BooleanParser):
  """Parses true, false and auto."""

  def parse(self, argument: str | bool) -> bool | str:
    if argument == AUTO:
      return AUTO
    try:
      return super().parse(argument)
    except ValueError as error:
      raise ValueError(f"must be true, false or {AUTO}") from error


def define_resume() -> flags.FlagHolder:
  """Defines the flag `--resume`, which is false, true or `AUTO`."""
  flag = flags.Flag(
    parser=_YesNoAuto(),
    serializer=flags.ArgumentSerializer(),
    name="resume",
    default=False,
    help_string="Continue from the newest checkpoint in --workdir; auto: if "
    "the folder holds a run, and else start one.",
    boolean=True,
  )
  return flags.DEFINE_flag(flag)


def config_path(text: str) -> str:
  """The file and mode of a config, which may be one that ships by its name.

  Where there is no such file, `mnist`, `mnist.py` and
  `experiments/configs/mnist.py` are all the config of that name, from any
  folder.

  Args:
    text: file or name, and mode after a colon.
  """
  name, colon, mode = text.partition(":")
  path = pathlib.Path(name)
  own = CONFIGS / f"{path.name.removesuffix('.py')}.py"
  known = path.parent in (pathlib.Path(), pathlib.Path("experiments/configs"))
  if path.is_file() or not known or not own.is_file():
    return text
  return f"{own}{colon}{mode}"


def _with_config_path(argv: list[str]) -> list[str]:
  """Arguments in which the flag `--config` names a file."""
  out = list(argv)
  for number, text in enumerate(argv):
    if text in ("--config", "-config") and number + 1 < len(argv):
      out[number + 1] = config_path(argv[number + 1])
    elif text.startswith(("--config=", "-config=")):
      flag, _, value = text.partition("=")
      out[number] = f"{flag}={config_path(value)}"
  return out


def check_free(out: pathlib.Path, written: Sequence[pathlib.Path]) -> None:
  """Makes sure that nothing is lost in the folder of the flag `--out`.

  Raises:
    InputError: it is a file; or one of the files that will be written exists,
      and the flag `--overwrite` does not allow to write over it.
  """
  if out.exists() and not out.is_dir():
    raise types.InputError(f"--out={out} is a file, not a folder.")
  existing = [path for path in written if path.exists()]
  if existing and not flags.FLAGS.overwrite:
    more = f" and {len(existing) - 1:,} more files" if existing[1:] else ""
    raise types.InputError(
      f"{existing[0]}{more} would be overwritten; allow that with --overwrite, "
      "or choose another folder with --out=DIR."
    )


def cannot_write(out: pathlib.Path, error: OSError) -> str:
  """The message for a folder of the flag `--out` that cannot be written."""
  return (
    f"--out={out} cannot be written ({error.strerror}); choose another folder, "
    "or free space."
  )


def run(main: Callable[[], None]) -> None:
  """Parses the flags and calls `main`.

  Exit codes: 0; 1 for a failure that the message or traceback explains; 2 for
  bad input, with one line on standard error; 130 after SIGINT and 143 after
  SIGTERM, whether there was something to save or not.
  """
  logging.set_verbosity(logging.WARNING)
  sys.unraisablehook = _print_unraisable
  # Orbax leaves errors of its threads there that it raises as well.
  logging_lib.getLogger("asyncio").setLevel(logging_lib.CRITICAL)
  # ml_collections loads config files with a deprecated function.
  warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)

  def guarded(argv: list[str]) -> int:
    if len(argv) > 1:
      return _fail(f"unexpected arguments: {' '.join(argv[1:])}", BAD_INPUT)
    try:
      main()
    except types.InputError as error:
      return _fail(error, BAD_INPUT)
    except OSError as error:
      if error.errno not in atomic_files.OF_THE_DISK:
        raise
      return _fail(
        f"{error.filename or 'a file'} cannot be read or written "
        f"({error.strerror}). Change permissions or free space, or choose "
        "another folder.",
        BAD_INPUT,
      )
    except (FloatingPointError, Failed) as error:
      return _fail(error, 1)
    except train_loop.Interrupted as error:
      code = _fail(error, interrupt.exit_code(error.signal))
      processes.leave_together()
      return code
    except KeyboardInterrupt as error:
      interrupt.tell()
      return interrupt.exit_code(*(error.args or (signal.SIGINT,)))
    except Exception:
      if not processes.are_several():
        raise
      processes.give_way()
      # The others, which wait for this process, must see it end.
      traceback.print_exc()
      return 1
    processes.leave_together()
    return 0

  def parse(argv: list[str]) -> list[str]:
    if _HELP & set(argv[1:]):
      print(_help(sys.modules[main.__module__].__doc__ or ""))
      sys.exit(0)
    return _parse(argv)

  interrupt.after_imports()
  try:
    app.run(guarded, flags_parser=parse)
  except SystemExit as error:
    if error.code:
      # Threads of libraries must neither delay the end of a failed program nor
      # write tracebacks after its message. Of several processes, the others see
      # at once that this one has ended.
      sys.stdout.flush()
      os._exit(error.code if isinstance(error.code, int) else 1)
    raise


def _print_unraisable(found: sys.UnraisableHookArgs) -> None:
  """Prints an exception that cannot be raised, as Python does.

  When a file cannot be written, TensorStore's threads report it to loops of
  asyncio that Orbax has closed; Orbax raises the reason as well.
  """
  if str(found.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(found)


def _help(about: str) -> str:
  """What a program does, and all of its own flags, the required ones first."""
  lines = []
  for module, own in flags.FLAGS.flags_by_module_dict().items():
    if module != sys.argv[0] and not module.startswith("experiments"):
      continue
    for flag in own:
      required = any("must have a value" in v.message for v in flag.validators)
      default = "required" if required else f"default: {flag.default!r}"
      # absl adds lines to the help of flags that may be repeated.
      text = " ".join(flag.help.split())
      lines.append((not required, f"  --{flag.name}: {text} ({default})"))
  return "\n".join([about, "Flags:", *(line for _, line in sorted(lines))])


def _parse(argv: list[str]) -> list[str]:
  try:
    rest = flags.FLAGS(_with_config_path(argv))
    if "config" in flags.FLAGS:
      # A config that cannot be loaded raises its error only when it is read.
      _ = flags.FLAGS["config"].value["seed"]
    return rest
  # Loading a config file may raise any exception.
  except Exception as error:
    sys.exit(_fail(one_line(error), BAD_INPUT))


def one_line(error: Exception) -> str:
  """The message of an error of absl, ml_collections or a config file."""
  # ml_collections adds a suggestion to the name of an unknown value, and absl
  # repeats both as Python writes them.
  if match := _SUGGESTION.search(text := str(error)):
    return f"unknown config value {match[1]!r}. {match[2]}"
  place = _place(error)
  is_unknown = isinstance(error, KeyError | AttributeError) and not place
  if is_unknown and (match := re.fullmatch(r"\W*(\w+)\W*", text)):
    return f"unknown config value {match[1]!r}"
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  message = lines[-1] if lines else type(error).__name__
  if place and not isinstance(error, flags.Error | SyntaxError):
    message = f"{type(error).__name__}: {message}"
  return place + message


def _place(error: Exception) -> str:
  """The file and line of a config that raised an error; "" if none did."""
  if isinstance(error, SyntaxError) and error.filename:
    return f"{error.filename}: "  # Its message names the line.
  # The flag does not know its own file until it is parsed.
  given = next((a for a in sys.argv if _CONFIG.match(a)), "")
  path = _CONFIG.sub("", given).partition(":")[0]
  for file, line in reversed(
    _FRAME.findall("".join(traceback.format_exception(error)))
  ):
    if path and os.path.abspath(file) == os.path.abspath(path):
      return f"{path}, line {line}: "
  return ""


def _fail(error: Exception | str, code: int) -> int:
  print(f"error: {error}", file=sys.stderr)
  return code
