import pytest

from effdet_jax.benchmark.scaling import lines, scaling
from effdet_jax.config import get_config


@pytest.mark.slow
def test_eight_devices_train_what_one_does():
    config = get_config()
    config.model.update(
        {"name": "efficientdet-lite0", "image_size": "128", "pyramid_cells": 1, "head_depth": 1}
    )
    rows = scaling(config, 2, steps=2)
    assert [(row["devices"], row["batch_size"]) for row in rows] == [
        (1, 2),
        (2, 4),
        (4, 8),
        (8, 16),
    ]
    assert rows[0]["efficiency"] == 1.0
    differences = [row["difference"] for row in rows]
    assert max(differences) < 1e-3, differences
    assert "efficiency" in lines(rows)[0]
