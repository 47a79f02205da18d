"""A class for every pixel of rendered shapes, 128 px: minutes on two cores, nothing to download.

python -m effdet_jax.train --config=configs/segment_shapes.py --workdir=runs/masks

For pixels instead of boxes. `--config.model.objective=retina+segment` learns boxes beside them, and
`--config.data.source=auto --config.data.dir=FOLDER` takes COCO polygons or folders of masks.
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    mode = configs.parse_arg(arg, modes=("smoke",))
    config = configs.get_config()
    config.data.source = "shapes"
    config.data.max_boxes = 8  # A scene has no more.
    config.model.image_size = "128"
    config.model.objective = "segment"
    config.model.anchor_scale = 2.0  # Of boxes, where they are learned, too.
    config.model.max_level = 5
    config.model.pyramid_cells = 1
    config.model.head_depth = 2
    config.batch_size = 4  # Few images, many steps.
    config.num_epochs = 2.0
    config.optim.name = "adamw"
    config.optim.learning_rate = 0.1
    config.optim.warmup_init = 0.0
    config.optim.warmup_epochs = 0.1
    config.optim.weight_decay = 0.05
    config.optim.ema_decay = 0.995  # A short run averages over fewer steps.
    config.augment.ops = ()  # Every scene is new: nothing else is needed.
    config.eval.every_epochs = 0.5
    config.log_every_steps = 100
    return configs.smoke(config) if mode == "smoke" else config
