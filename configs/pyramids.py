"""The pyramids of the paper's table 5 on one backbone (B3, 896 px), all else equal.

python -m effdet_jax.train --config=configs/pyramids.py:panet --config.data.dir=coco --workdir=runs/panet

To compare pyramids, here or (--config.model.name, --config.model.image_size) on a model of your size.
Weighted BiFPN, the mode if none is given, is the paper's most accurate (AP 44.39 on val2017), and only
NAS-FPN has fewer parameters. None was trained here. D3 had five cells then; it was released with six.
"""

from effdet_jax import config as configs

# Mode → (graph, fusion, cells). Two passes of FPN count as one of PANet, which goes down and up.
PYRAMIDS = {
    "fpn": ("fpn", "sum", 10),
    "panet": ("panet", "sum", 5),
    "nasfpn": ("nasfpn", "sum", 5),
    "fully_connected": ("fully_connected", "sum", 10),
    "bifpn": ("bifpn", "sum", 5),
    "weighted": ("bifpn", "fast", 5),
}


def get_config(arg: str | None = None):
    mode = configs.parse_arg(arg, modes=("smoke", *PYRAMIDS))
    config = configs.coco("efficientdet-d3", "smoke" if mode == "smoke" else None)
    model = config.model
    model.pyramid, model.fusion, model.pyramid_cells = PYRAMIDS.get(mode, PYRAMIDS["weighted"])
    return config
