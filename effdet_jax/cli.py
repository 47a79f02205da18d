"""What the commands share: the `--config` flag, and errors as messages instead of tracebacks."""

import difflib
import glob
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

import effdet_jax
from effdet_jax.compilation import enable_compilation_cache
from effdet_jax.config import ConfigError, flatten, get_config
from effdet_jax.errors import UserError
from effdet_jax.knobs import LIKENESS, help_on_key, knob_lines
from effdet_jax.libtpu import silence_libtpu

INTERRUPTED = 130  # The exit status that shells give to Ctrl-C.

# Libraries log what no user of a command can act on, some while they are imported: commands import
# this module before those. This package prints what it has to say.
logging.set_verbosity(logging.ERROR)
# `checkpoint` tells of a full disk in one sentence; Orbax does in seven threads, with tracebacks.
logging.get_absl_logger().addFilter(
    lambda record: "No space left" not in f"{record.getMessage()} {record.exc_info}"
)


def define_config_flag(*, required: bool) -> flags.FlagHolder:
    """`--config=d0` or `--config=mine/d0.py`, and `--config.optim.learning_rate=0.02` for fields."""
    holder = config_flags.DEFINE_config_file(
        "config", help_string="experiment: a name such as shapes, or a file", lock_config=True
    )
    if required:
        flags.mark_flag_as_required(holder)
    return holder


def define_process_flags() -> dict[str, flags.FlagHolder]:
    """For a run of several processes where no cluster says who takes part."""
    return {
        "coordinator": flags.DEFINE_string(
            "coordinator", "", "host:port of process 0; several processes are one run"
        ),
        "num_processes": flags.DEFINE_integer("num_processes", 0, "of the run", lower_bound=0),
        "process_id": flags.DEFINE_integer("process_id", -1, "of this process, from 0"),
        "wait_seconds": flags.DEFINE_integer(
            "wait_seconds", 300, "for all processes to arrive", lower_bound=1
        ),
    }


def define_tta_flags() -> dict[str, flags.FlagHolder]:
    """Views of an image beside the plain one, see `inference.tta.TTA.parse`."""
    return {
        "tta": flags.DEFINE_string(
            "tta",
            "",
            "other views of each image: flip, and scales of the network's input, as in "
            "flip,0.75,1.25",
        ),
        "fusion": flags.DEFINE_string(
            "fusion", None, "of the views' boxes: wbf, weighted box fusion, if not given; or nms"
        ),
    }


def _define_import_flag() -> flags.FlagHolder:
    """`--import=my_net`, and the flags of this file in the command's `--help`."""
    holder = flags.DEFINE_list(
        "import",
        [],
        "Python modules to import first, from here or installed: my_net.py can add a backbone, data "
        'source, format … of its own to the table of this package: BACKBONES["mine"] = …',
    )
    for name in {"config", "import"} & set(flags.FLAGS):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    return holder


def run(
    main: Callable[..., int],
    define_flags: Callable[[], dict[str, flags.FlagHolder]],
    *,
    arguments: str = "",
):
    """Parses the command line and calls `main` with a keyword per flag; exits with its status.

    Errors a user can mend end with their message and status 2, without a traceback. Every command
    has `--import`.

    Args:
      define_flags: defines the flags and returns them by keyword.
      arguments: keyword that is given what isn't a flag; '' refuses it.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # A terminal without × prints '?' and goes on.
    silence_libtpu(jax.config.jax_platforms)
    enable_compilation_cache()
    holders = define_flags()
    modules = _define_import_flag()

    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1 and not arguments:
            _exit(f"unexpected arguments: {' '.join(argv[1:])}" + _help_on_words(argv[1:]))
        values = {name: holder.value for name, holder in holders.items()}
        try:
            _import_modules(modules.value)
            return main(**values, **({arguments: argv[1:]} if arguments else {}))
        except UserError as error:
            _exit(str(error))
        except KeyboardInterrupt:  # A command that has something to save does so itself.
            print("stopped by Ctrl-C", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:  # `… | head` has read enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1

    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv: Sequence[str]) -> Sequence[str]:
    """absl's parsing, with a plain message for what people mistype most."""
    arguments = [_with_home(_with_underscores(argument)) for argument in argv[1:]]
    if {"--help", "-h"} & set(arguments):
        _print_help()
        sys.exit(0)
    try:
        if "config" in flags.FLAGS:
            arguments = _with_config_files(arguments)
        return flags.FLAGS([argv[0], *arguments])
    except UserError as error:
        _exit(str(error))
    except flags.UnrecognizedFlagError as error:
        _exit(f"unknown flag --{error.flagname}. {_help_on_flag(error.flagname)}")
    except flags.Error as error:
        # The last line has the reason; a traceback of the config file may stand before it.
        reason = str(error).strip().splitlines()[-1].strip()
        _exit(reason)


def _print_help():
    """What the command does, its flags, and where it has them the knobs of its config."""
    app.usage(shorthelp=True, writeto_stdout=True)
    if "config" in flags.FLAGS:
        print("\nThe knobs of --config with the defaults of effdet_jax/config.py:")
        print("\n".join(knob_lines()))


def _help_on_flag(name: str) -> str:
    """What to type instead of an unknown flag."""
    known = list(flags.FLAGS)
    if name.startswith("config."):
        here = "; another data folder is --data_dir=FOLDER" if "data_dir" in known else ""
        return f"It needs --config=NAME, too{here}"
    close = difflib.get_close_matches(name, known, n=1, cutoff=LIKENESS)
    if close:
        return f"Did you mean --{close[0]}?"
    return help_on_key(name) if "config" in known else "All flags are listed by --help"


def _help_on_words(words: Sequence[str]) -> str:
    """What to type instead of 'epochs=100', as other tools have it; '' if it is no such word."""
    if "config" not in flags.FLAGS or "=" not in words[0]:
        return ""
    return f". {help_on_key(words[0].partition('=')[0])}"


def _with_config_files(arguments: Sequence[str]) -> list[str]:
    """The arguments with the file in the place of a config's name.

    Raises:
      ConfigError: a config or a config key is unknown, or the batch size isn't a number.
    """
    known = flatten(get_config())
    sections = {key.rsplit(".", 1)[0] for key in known if "." in key}
    found, previous = [], ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        key = name.lstrip("-").removeprefix("config.")
        if name == "--config" and equals:
            argument = f"--config={find_config(value)}"
        elif previous == "--config":
            argument = find_config(argument)
        elif name == "--config.batch_size" and value == "auto":
            raise ConfigError(
                "--config.batch_size=auto: it is a number; the largest that fits is found by "
                "`python -m effdet_jax.plan --config=… --batch=auto`"
            )
        elif name.startswith("--config.") and key not in known and key not in sections:
            raise ConfigError(f"unknown config key '{key}'. {help_on_key(key)}")
        found.append(argument)
        previous = argument
    return found


def find_config(value: str) -> str:
    """The file, ':mode' kept, that `--config=value` names: 'd3', 'shapes:smoke', 'mine/d3.py'.

    A name without folder and ending is one of the configs that come with the package.

    Raises:
      ConfigError: there is none.
    """
    path, colon, mode = value.partition(":")
    known = list_configs()
    if path in known:
        return f"{known[path]}{colon}{mode}"
    if os.path.isfile(path):
        return value
    name = os.path.basename(path).removesuffix(".py")
    (nearest,) = difflib.get_close_matches(name, known, n=1, cutoff=0.0) or ("…",)
    what = f"config '{path}'" if name == path else f"config file '{path}' in {os.getcwd()}"
    raise ConfigError(
        f"there is no {what}. Did you mean --config={nearest}? By name there are "
        f"{', '.join(known)}; a file is --config=FOLDER/FILE.py"
    )


def list_configs() -> dict[str, str]:
    """{name: file} of the configs that come with the package: `configs/` of the clone, or its copy
    in an installed package."""
    package = os.path.dirname(effdet_jax.__file__)
    beside = os.path.join(os.path.dirname(package), "configs")
    inside = os.path.join(package, "configs")
    files = sorted(glob.glob(os.path.join(inside if os.path.isdir(inside) else beside, "*.py")))
    return {os.path.basename(file).removesuffix(".py"): file for file in files}


def load_config(name: str, mode: str | None = None) -> ConfigDict:
    """What a config of the package gives, for another one to change: `load_config("shapes")`.

    Raises:
      ConfigError: there is none of that name, or it hasn't that mode.
    """
    spec = importlib.util.spec_from_file_location(name, find_config(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(mode)


def _import_modules(names: Sequence[str]):
    """Imports what `--import` names.

    Raises:
      ConfigError: one of them isn't there, or fails; says where.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and name.startswith(error.name or " "):
                reason = f"no such module in {os.getcwd()}, and none is installed"
            else:
                where = traceback.extract_tb(error.__traceback__)[-1]
                reason = f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"
            raise ConfigError(f"--import={name}: {reason}") from error


def _with_underscores(argument: str) -> str:
    """'--num-classes=3' is '--num_classes=3'; values and config keys stay as they are."""
    name, equals, value = argument.partition("=")
    is_flag = name.startswith("--") and not name.startswith("--config.") and len(name) > 2
    return "--" + name[2:].replace("-", "_") + equals + value if is_flag else argument


def _with_home(argument: str) -> str:
    """'--workdir=~/runs' with the home folder in place of '~', which shells only do to whole words."""
    name, equals, value = argument.partition("=")
    return f"{name}={os.path.expanduser(value)}" if equals else os.path.expanduser(argument)


def _exit(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
