"""Several processes as one program: how they find one another, and which of them speaks."""

import contextlib
import itertools
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Mapping

import jax
from orbax.checkpoint import multihost

from effdet_jax.errors import UserError

_RETRY_SECONDS = 0.5
_ANSWER_SECONDS = 30.0  # What process 0 may take to answer after the time limit.
_COMPILE_MILLISECONDS = 3600 * 1000
_points = itertools.count()


class ProcessError(UserError):
    """The processes of a run didn't find one another; the message says who is missing."""


@contextlib.contextmanager
def connected(
    coordinator: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    wait_seconds: float = 300.0,
) -> Iterator[None]:
    """Joins this process to the others of its run; within, only process 0 writes to stdout.

    Without arguments they come from Cloud TPU, SLURM or Open MPI as jax finds them, or from the
    environment: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID (JOB_COMPLETION_INDEX in
    an indexed Kubernetes job). Where there is none of that, this process is alone.

    Args:
      coordinator: 'host:port' of process 0; the port must be free there.
      wait_seconds: for all processes to arrive.

    Raises:
      ProcessError: an argument is missing, or a process.
    """
    given = _given(coordinator, num_processes, process_id)
    address, count, index, local_devices = given or _from_cluster(wait_seconds)
    if count <= 1 or jax.distributed.is_initialized():
        yield
        return
    roll_call(address, count, index, wait_seconds)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # For processes without more.
    jax.distributed.initialize(address, count, index, local_devices)
    with contextlib.ExitStack() as stack:
        if index:
            silent = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silent))
        yield


def wait_for_all(point: str):
    """Returns once every process has come to this point of the program.

    Processes compile for unequally long, and one that runs a program minutes before another would
    take it for lost.
    """
    multihost.get_barrier_sync_fn()(
        key=f"effdet_jax {next(_points)} {point}", timeout_ms=_COMPILE_MILLISECONDS
    )


def _given(
    coordinator: str, num_processes: int, process_id: int, environ: Mapping[str, str] = os.environ
) -> tuple[str, int, int, None] | None:
    """(address, processes, own index, devices) from arguments or environment, if they are there."""
    coordinator = coordinator or environ.get("JAX_COORDINATOR_ADDRESS", "")
    num_processes = num_processes or int(environ.get("JAX_NUM_PROCESSES", 0))
    if not coordinator and not num_processes and process_id < 0:
        return None
    if process_id < 0:
        process_id = int(environ.get("JAX_PROCESS_ID", environ.get("JOB_COMPLETION_INDEX", -1)))
    needed = {
        "--coordinator=HOST:PORT": bool(coordinator),
        "--num-processes=N": num_processes > 0,
        "--process-id=I": process_id >= 0,
    }
    if missing := [flag for flag, there in needed.items() if not there]:
        raise ProcessError(f"a run of several processes needs {' and '.join(missing)}, too")
    if process_id >= num_processes:
        raise ProcessError(
            f"--process-id={process_id} isn't below --num-processes={num_processes}: they count "
            "from 0"
        )
    if not coordinator.rpartition(":")[2].isdecimal():
        raise ProcessError(f"--coordinator={coordinator} has no port: --coordinator=HOST:12345")
    return coordinator, num_processes, process_id, None


def _from_cluster(wait_seconds: float) -> tuple[str, int, int, list[int] | None]:
    """The same from the cluster manager, as jax finds it; one process where there is none."""
    # Private, but jax has no other way to say who is in a run without joining it.
    from jax._src.clusters import ClusterEnv

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # That a Kubernetes client isn't installed.
            address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
                None, None, None, None, None, int(wait_seconds)
            )
    except (
        OSError,
        RuntimeError,
        ValueError,
        ImportError,
    ) as error:  # Whatever a cluster's metadata may raise.
        message = f"warning: can't tell whether other hosts take part, going on alone: {error}"
        print(message, file=sys.stderr, flush=True)
        return "", 1, 0, None
    return (address, count, index, devices) if count else ("", 1, 0, None)


def roll_call(address: str, count: int, index: int, wait_seconds: float):
    """Returns once all processes are there.

    jax would abort without saying who is missing. Uses the coordinator's port, which is free again
    afterwards.

    Raises:
      ProcessError: names the processes that didn't arrive in time.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + wait_seconds
    if index:
        _answer((host.strip("[]"), int(port)), index, deadline, wait_seconds)
    else:
        _call(int(port), count, deadline, wait_seconds)


def _call(port: int, count: int, deadline: float, wait_seconds: float):
    """Process 0: waits for the others, then tells each that all are there, or who isn't."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        server = socket.create_server(
            ("", port), family=family, dualstack_ipv6=family == socket.AF_INET6
        )
    except OSError as error:
        raise ProcessError(
            f"port {port} of --coordinator can't be opened ({error.strerror}); choose another"
        ) from error
    arrived = {0: (socket.gethostname(), None)}
    with server, contextlib.ExitStack() as open_connections:
        while len(arrived) < count and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection, _ = server.accept()
            except TimeoutError:
                break
            open_connections.enter_context(connection)
            connection.settimeout(_RETRY_SECONDS)
            with contextlib.suppress(OSError, ValueError):  # Somebody else knocking at the port.
                number, name = connection.makefile().readline(1000).split()
                if 0 < int(number) < count:
                    arrived[int(number)] = (name, connection)
        message = _missing({number: name for number, (name, _) in arrived.items()}, count)
        for _, connection in arrived.values():
            if connection is not None:
                with contextlib.suppress(OSError):
                    connection.sendall(f"{message}\n".encode())
                    connection.settimeout(_ANSWER_SECONDS)
                    connection.recv(1)  # The other side closes first, so that the port is free.
    if message:
        raise ProcessError(f"after {wait_seconds:.0f} s {message}")


def _answer(server: tuple[str, int], index: int, deadline: float, wait_seconds: float):
    """Any other process: reports to process 0 and waits for its word."""
    connection = None
    while connection is None:
        try:
            connection = socket.create_connection(server, timeout=_ANSWER_SECONDS)
        except OSError as error:
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"after {wait_seconds:.0f} s process 0 isn't to be reached at {server[0]}:"
                    f"{server[1]} ({error}); is it started, and the port open?"
                ) from error
            time.sleep(_RETRY_SECONDS)
    with connection:
        connection.settimeout(max(deadline - time.monotonic(), 0.0) + _ANSWER_SECONDS)
        try:
            connection.sendall(f"{index} {socket.gethostname()}\n".encode())
            answer = connection.makefile().readline()
        except OSError as error:
            answer = str(error)
    if answer != "\n":
        raise ProcessError(f"process 0 says: {answer.strip() or 'nothing; it has ended'}")


def _missing(arrived: Mapping[int, str], count: int) -> str:
    """Who isn't there, and who is; '' if all are."""
    if len(arrived) == count:
        return ""
    absent = ", ".join(str(number) for number in range(count) if number not in arrived)
    present = ", ".join(f"{number} on {name}" for number, name in sorted(arrived.items()))
    return (
        f"process {absent} of {count} didn't arrive; there are {present}. Start it with "
        "--process-id, look at its log, or wait longer with --wait-seconds"
    )
