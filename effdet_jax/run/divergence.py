"""Back to before a divergence: no checkpoint of a run that went wrong stays the newest."""

import contextlib
from collections.abc import Iterator

import jax

from effdet_jax.checkpoint import Checkpoints
from effdet_jax.distributed.processes import wait_for_all
from effdet_jax.run.monitor import Monitor, TrainingError


@contextlib.contextmanager
def going_back(checkpoints: Checkpoints, monitor: Monitor, start_step: int) -> Iterator[None]:
    """Where training fails within, deletes the checkpoints that it fails from, and says what is left.

    The step before the first bad one was finite, but has destroyed the parameters: its checkpoint
    and later ones would fail again at once.

    Args:
      start_step: where the run went on from; that checkpoint stays if there is none before it.

    Raises:
      TrainingError: the same, with what the same command will do.
    """
    try:
        yield
    except TrainingError as error:
        bad = [step for step in checkpoints.steps if step >= monitor.last_good_step]
        left = [step for step in checkpoints.steps if step < monitor.last_good_step]
        if start_step in bad and not left:
            raise TrainingError(
                f"{error}, in a new --workdir: the checkpoint of step {start_step} fails at once"
            ) from error
        if jax.process_index() == 0:
            checkpoints.delete(bad)
        wait_for_all("bad checkpoints deleted")
        where = f"goes on from step {left[-1]}" if left else "starts anew"
        raise TrainingError(f"{error} {where}") from error
