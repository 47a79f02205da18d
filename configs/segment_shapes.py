"""A class for every pixel of rendered shapes, 128 px: minutes on two cores, nothing to download.

python -m effdet_jax.train --config=configs/segment_shapes.py --workdir=runs/masks

For pixels instead of boxes; the rest is as in `shapes.py`. `--config.model.objective=retina+segment`
learns boxes beside them, and `--config.data.source=auto --config.data.dir=FOLDER` takes COCO polygons
or folders of masks.
"""

from effdet_jax.cli import load_config


def get_config(arg: str | None = None):
    config = load_config("shapes", arg)
    config.model.objective = "segment"
    return config
