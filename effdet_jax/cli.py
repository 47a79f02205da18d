"""What the commands share: the `--config` flag, and errors as messages instead of tracebacks."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from effdet_jax.compilation import enable_compilation_cache
from effdet_jax.config import flatten, get_config, nearest_key
from effdet_jax.errors import UserError
from effdet_jax.libtpu import silence_libtpu


def define_config_flag(*, required: bool) -> flags.FlagHolder:
    """`--config=configs/d0.py`, with `--config.optim.learning_rate=0.02` for its fields."""
    holder = config_flags.DEFINE_config_file(
        "config", help_string="experiment, such as configs/shapes.py", lock_config=True
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


def run(
    main: Callable[..., int],
    define_flags: Callable[[], dict[str, flags.FlagHolder]],
    *,
    arguments: str = "",
):
    """Parses the command line and calls `main` with a keyword per flag; exits with its status.

    Errors a user can mend end with their message and status 2, without a traceback.

    Args:
      define_flags: defines the flags and returns them by keyword.
      arguments: keyword that is given what isn't a flag; '' refuses it.
    """
    logging.set_verbosity(logging.ERROR)  # The libraries' chatter; ours is printed.
    silence_libtpu(jax.config.jax_platforms)
    enable_compilation_cache()
    holders = define_flags()

    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1 and not arguments:
            _exit(f"unexpected arguments: {' '.join(argv[1:])}")
        values = {name: holder.value for name, holder in holders.items()}
        try:
            return main(**values, **({arguments: argv[1:]} if arguments else {}))
        except UserError as error:
            _exit(str(error))

    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv: Sequence[str]) -> Sequence[str]:
    """absl's parsing, with a plain message for what people mistype most."""
    known = flatten(get_config())
    sections = {key.rsplit(".", 1)[0] for key in known if "." in key}
    for argument in argv[1:]:
        name, _, value = argument.lstrip("-").partition("=")
        key = name.removeprefix("config.")
        if name == "config" and value and not os.path.isfile(value.split(":")[0]):
            _exit(f"there is no config file '{value}' in {os.getcwd()}; try configs/shapes.py")
        if name.startswith("config.") and key not in known and key not in sections:
            _exit(f"unknown config key '{key}'. Did you mean --config.{nearest_key(key)}?")
    try:
        return flags.FLAGS([argv[0], *map(_with_underscores, argv[1:])])
    except UserError as error:
        _exit(str(error))
    except flags.Error as error:
        # The last line has the reason; a traceback of the config file may stand before it.
        reason = str(error).strip().splitlines()[-1].strip()
        _exit(reason)


def _with_underscores(argument: str) -> str:
    """'--num-classes=3' is '--num_classes=3'; values and config keys stay as they are."""
    name, equals, value = argument.partition("=")
    is_flag = name.startswith("--") and not name.startswith("--config.") and len(name) > 2
    return "--" + name[2:].replace("-", "_") + equals + value if is_flag else argument


def _exit(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
