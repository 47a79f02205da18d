"""EfficientDet in JAX/Flax.

    import effdet_jax as ed
    model, variables = ed.load('runs/d0')        # spec, labels and preprocessing come with it
    found = ed.Predictor(model, variables)(images)
    ed.render(images[0], found[0], model.labels)

The rooms stand alone too: `effdet_jax.ops.nms`, `effdet_jax.losses`, `effdet_jax.model.pyramid`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effdet_jax.convert.load import load
    from effdet_jax.detections import Detections, detect
    from effdet_jax.labels import Labels
    from effdet_jax.model.detector import Detector, Outputs
    from effdet_jax.predictor import Predictor
    from effdet_jax.render import render
    from effdet_jax.variants import ModelSpec, list_models, model_spec

__version__ = "0.1.0"

# Imported on first use: `import effdet_jax` alone loads nothing heavy and starts no device.
_HOMES = {
    "Detections": "effdet_jax.detections",
    "Detector": "effdet_jax.model.detector",
    "Labels": "effdet_jax.labels",
    "ModelSpec": "effdet_jax.variants",
    "Outputs": "effdet_jax.model.detector",
    "Predictor": "effdet_jax.predictor",
    "detect": "effdet_jax.detections",
    "freeze": "effdet_jax.model.freeze",
    "list_models": "effdet_jax.variants",
    "load": "effdet_jax.convert.load",
    "model_spec": "effdet_jax.variants",
    "render": "effdet_jax.render",
}
__all__ = [
    "Detections",
    "Detector",
    "Labels",
    "ModelSpec",
    "Outputs",
    "Predictor",
    "detect",
    "freeze",
    "list_models",
    "load",
    "model_spec",
    "render",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'effdet_jax' has no attribute '{name}'")
    # A submodule may have the name of what it holds (`render`): the function wins.
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
