"""EfficientDet in JAX/Flax.

    import effdet_jax as ed
    model, variables = ed.load("runs/d0")        # spec, classes and preprocessing come with it
    detect = ed.Predictor(model, variables)
    result = detect("photo.jpg")                 # a Pillow image, an array, or several of them
    result.boxes, result.scores, result.names    # yxyx pixels of the photo, best first
    result.save("found.jpg")

The rooms stand alone too: `effdet_jax.ops.nms`, `effdet_jax.detection.losses`,
`effdet_jax.model.pyramid`.
"""

import importlib

__version__ = "0.1.0"

# Public names and where they live; imported on first use: `import effdet_jax` alone loads nothing
# heavy and starts no device.
_HOMES = {
    # Models.
    "ModelSpec": "spec",
    "list_models": "spec",
    "model_spec": "spec",
    "Detector": "model.detector",
    "Outputs": "detection.heads",
    # A trained detector in use.
    "load": "inference.load",
    "Predictor": "inference.predictor",
    "Result": "inference.result",
    "fold_batch_norm": "inference.fold_batch_norm",
    "render": "inference.render",
    # Detections and classes.
    "ClassNames": "classes",
    "Detections": "detection.postprocess",
    "detect": "detection.postprocess",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'effdet_jax' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"effdet_jax.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
