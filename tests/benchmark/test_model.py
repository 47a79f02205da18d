import json

import pytest

from effdet_jax.benchmark import model
from tests.tiny import tiny_config


@pytest.mark.parametrize(
    "names",
    [
        ("input",),
        pytest.param(("forward", "detect", "train"), marks=pytest.mark.slow),  # Compiles for long.
    ],
)
def test_each_task_is_measured_and_written_as_json_or_table(names, capsys):
    config = tiny_config()
    model.main(config, names, batch_size=2, rounds=2, warmup=1, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert [row["task"] for row in report["rows"]] == list(names)
    for row in report["rows"]:
        assert 0 < row["median_ms"] <= row["p95_ms"] and row["images_per_second"] > 0
        if row["task"] != "input":
            assert row["compile_s"] > 0 and row["peak_mib"] > 1
    table = "\n".join(model._table(report))
    assert "efficientdet-lite0 at 64×64, batch 2, float32" in table and "images_per_second" in table
