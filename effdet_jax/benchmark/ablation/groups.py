"""What is compared with what: `GROUPS`, and the configuration of a run."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from effdet_jax import config as configs

SNAPSHOTS = 10  # Checkpoints along a run, for its fusion weights.

# An EfficientDet of 175,689 parameters. NAS-FPN is for the levels 3 to 7 alone, so all have these.
BASE = {
    "model.backbone": "efficientnet-tiny",
    "model.image_size": "96",
    "model.pyramid_width": 64,
    "model.pyramid_cells": 1,
    "model.head_depth": 1,
    "model.anchor_scale": 2.0,  # Shapes are 14 to 51 px.
}

# Group → entry → what it changes of `BASE`. Others are compared with the first entry of their group.
# An entry that changes nothing is the same run in every group.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    # All with fast fusion; but NAS-FPN's nodes have their own merges.
    "pyramids": {
        "bifpn": {},
        "fpn": {"model.pyramid": "fpn"},
        "fpn_repeated": {"model.pyramid": "fpn", "model.pyramid_cells": 2},
        "panet": {"model.pyramid": "panet"},
        "panet_repeated": {"model.pyramid": "panet", "model.pyramid_cells": 2},
        "simple_panet": {"model.pyramid": "simple_panet"},
        "fully_connected": {"model.pyramid": "fully_connected"},
        "qufpn": {"model.pyramid": "qufpn"},
        "nasfpn": {"model.pyramid": "nasfpn"},
    },
    "fusions": {
        "fast": {},
        "softmax": {"model.fusion": "softmax"},
        "unbounded": {"model.fusion": "unbounded"},
        "sum": {"model.fusion": "sum"},
        "channel_fast": {"model.fusion": "channel_fast"},
        "channel_softmax": {"model.fusion": "channel_softmax"},
    },
    # As the paper's figure 6, each 1.6 times the multiply-adds; the backbone stays as it is. A small
    # compound step leaves the heads' depth, as from D0 to D2.
    "scaling": {
        "compound": {
            "model.image_size": "104",
            "model.pyramid_width": 72,
            "model.pyramid_cells": 2,
        },
        "image_size": {"model.image_size": "120"},
        "channels": {"model.pyramid_width": 104},
        "pyramid_cells": {"model.pyramid_cells": 6},
        "head_depth": {"model.head_depth": 4},
        "unscaled": {},
    },
}


def create_config(changes: Mapping[str, Any], *, seed: int, steps: int) -> ConfigDict:
    """The configuration of one run.

    The seed decides the initial weights and the order of the scenes; where two models have a layer
    of one name and shape, it begins with the same values in both.

    Args:
      changes: config keys with values, an entry of `GROUPS`.
      steps: to train; their schedule is stretched over as many.
    """
    config = configs.get_config()
    config.seed = seed
    config.data.source = "shapes"
    config.data.max_boxes = 8  # A scene has no more.
    config.batch_size = 8
    config.data.shapes_train = config.batch_size * steps  # The run is one epoch.
    config.num_epochs = 1.0
    config.checkpoint_every_epochs = 1.0 / SNAPSHOTS
    if set(changes) <= {"model.fusion"}:  # Its fusion weights may be asked for.
        config.keep_checkpoints = SNAPSHOTS + 1
    config.optim.name = "adamw"
    config.optim.learning_rate = 0.16
    config.optim.warmup_init = 0.0
    config.optim.warmup_epochs = 0.1
    config.optim.weight_decay = 0.05
    config.optim.ema_decay = 0.98
    config.augment.ops = ()  # Every scene is new.
    config.eval.every_epochs = 0.0  # At the end.
    config.eval.weights = "averaged"
    config.log_every_steps = max(1, steps // SNAPSHOTS)
    config.update_from_flattened_dict({**BASE, **changes})
    return config
