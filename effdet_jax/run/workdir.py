"""The folder of a run in the hands of one training at a time."""

import contextlib
import os
import socket
from collections.abc import Iterator

import jax

from effdet_jax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no such locks, and nobody is kept out.
    fcntl = None


class WorkdirInUseError(UserError):
    """Another training writes there; the message says which."""


@contextlib.contextmanager
def only_training_in(workdir: str | os.PathLike) -> Iterator[None]:
    """Holds `workdir` while within; what another one is saving there would be taken for left over.

    The system lets go of it however the process ends. Of several processes the first one holds it.
    A file system without locks keeps nobody out.

    Raises:
      WorkdirInUseError: another process holds it.
    """
    if fcntl is None or jax.process_index():
        yield
        return
    with open(os.path.join(workdir, ".lock"), "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # Both mean that another has it.
            file.seek(0)
            raise WorkdirInUseError(
                f"another training is using --workdir={workdir} ({file.read().strip()}); wait until "
                "it has ended, or choose another folder"
            ) from error
        except OSError:
            pass
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        yield
