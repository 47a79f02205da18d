"""With torchvision, where it is installed; `test_torchvision.py` has what it recorded."""

import sys

import numpy as np
import pytest

from effdet_jax.convert.rules import ConversionError
from effdet_jax.convert.torchvision_live import torchvision_layers
from effdet_jax.convert.verify import compare, live_reference, run_layers
from effdet_jax.model.detector import Detector
from effdet_jax.spec import model_spec
from tests.tiny import random_variables

SPEC = model_spec(
    "retinanet-r50-torchvision",
    num_classes=3,
    pyramid_width=32,
    head_depth=2,
    image_size=(128, 128),
)


@pytest.mark.slow
def test_every_layer_is_torchvisions():
    pytest.importorskip("torchvision")
    variables = random_variables(Detector(SPEC))
    reference = live_reference(SPEC, variables, (128, 128))
    rows = compare(run_layers(SPEC, variables, reference.images), reference)
    # Three of the backbone; a feature, classes and boxes for each of five levels.
    assert reference.name == "torchvision" and len(rows) == 3 + 3 * 5
    assert all(row.equal for row in rows)


def test_without_torchvision_it_says_what_to_install(monkeypatch):
    for name in ("torch", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConversionError, match="pip install torch torchvision"):
        torchvision_layers(SPEC, {}, np.zeros((1, 64, 64, 3), np.float32))
