import pytest

from effdet_jax.benchmark.scaling import lines, scaling
from tests.tiny import tiny_config


@pytest.mark.slow
def test_eight_devices_train_what_one_does():
    config = tiny_config(**{"model.image_size": "128"})
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
