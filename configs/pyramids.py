"""The pyramids of the paper's table 5 on one backbone (B3, 896 px), all else equal.

python -m effdet_jax.train --config=configs/pyramids.py:panet --config.data.dir=coco --workdir=runs/panet

To compare pyramids, here or (--config.model.name, --config.model.image_size) on a model of your size.
BiFPN is the default for a reason: cheaper than all but NAS-FPN, and weighted the most accurate. The
paper's AP on val2017 is beside each; not trained here. Its D3 of then had five cells, not six.
"""

from effdet_jax import config as configs

# Mode → (graph, fusion, cells). Two passes of FPN count as one of PANet, which goes down and up.
PYRAMIDS = {
    "fpn": ("fpn", "sum", 10),  # 42.29
    "panet": ("panet", "sum", 5),  # 44.08
    "nasfpn": ("nasfpn", "sum", 5),  # 43.16
    "fully_connected": ("fully_connected", "sum", 10),  # 43.06
    "bifpn": ("bifpn", "sum", 5),  # 43.94
    "weighted": ("bifpn", "fast", 5),  # 44.39, and the mode if none is given.
}


def get_config(arg: str | None = None):
    mode = configs.parse_arg(arg, modes=("smoke", *PYRAMIDS))
    config = configs.coco("efficientdet-d3", "smoke" if mode == "smoke" else None)
    model = config.model
    model.pyramid, model.fusion, model.pyramid_cells = PYRAMIDS.get(mode, PYRAMIDS["weighted"])
    return config
