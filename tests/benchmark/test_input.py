import pytest

from effdet_jax.benchmark import input as input_rates
from effdet_jax.config import ConfigError, get_config


def test_rates_of_a_core_and_of_whole_batches():
    config = get_config()
    config.data.source, config.model.image_size = "shapes", "64"
    report = input_rates.rates(config, [0], batch_size=4, seconds=0.2)
    core = report["core"]
    assert 0 < core["both"] < min(core["read"], core["augment"])
    assert core["both"] == pytest.approx(1 / (1 / core["read"] + 1 / core["augment"]), rel=0.01)
    (row,) = report["pipeline"]
    assert row["workers"] == 0 and row["images_per_second"] > 0
    assert "batches of 4" in input_rates.lines(report)[0]


def test_workers_that_are_no_numbers_are_an_error():
    with pytest.raises(ConfigError, match="--workers=two"):
        input_rates.main(get_config(), ["two"], 4, 0.1, as_json=False)
