"""EfficientDet-D0 on rendered shapes, 128 px: minutes on two cores, nothing to download.

python -m effdet_jax.train --config=configs/shapes.py --workdir=runs/shapes
"""

from effdet_jax import config as configs


def get_config(arg: str | None = None):
    mode = configs.parse_arg(arg, modes=("smoke",))
    config = configs.get_config()
    config.data.source = "shapes"
    config.model.image_size = "128"
    config.batch_size = 16
    config.num_epochs = 4.0
    config.log_every_steps = 25
    return configs.smoke(config) if mode == "smoke" else config
