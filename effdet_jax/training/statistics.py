"""How the running statistics of batch normalisation follow those of the batches."""

from typing import Any

import jax

from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import describe
from effdet_jax.training.optimizer import ema_decay


def statistics_momentum(model: Detector) -> Any:
    """What each running statistic keeps of itself per step: a tree like `batch_stats` of floats.

    It is read off the modules; one that declares no `momentum` is taken to keep nothing.
    """
    description = describe(model)

    def momentum(path: tuple[Any, ...], _: Any) -> float:
        module = description.modules[tuple(key.key for key in path[:-1])]
        return float(getattr(module, "momentum", 0.0))

    return jax.tree_util.tree_map_with_path(momentum, description.shapes["batch_stats"])


def warm_up(old: Any, moved: Any, momentum: Any, step: jax.Array) -> tuple[Any, Any]:
    """(running statistics, those of the batch alone) where the layers themselves made `moved`.

    With momentum 0.99 from mean 0 and variance 1, a run of 500 steps is evaluated with statistics
    that never were. So step t = 1, 2, … keeps no more than (1 + t) / (10 + t) of the old ones, as
    moving averages of weights do.

    Args:
      old: before the step.
      moved: after the layers' own update, momentum · old + (1 - momentum) · batch.
      momentum: from `statistics_momentum`.
      step: t.
    """
    batch = jax.tree.map(lambda a, b, m: a + (b - a) / (1.0 - m), old, moved, momentum)
    running = jax.tree.map(
        lambda a, b, m: a + (1.0 - ema_decay(step, m)) * (b - a), old, batch, momentum
    )
    return running, batch
