import itertools

import numpy as np
import pytest

from effdet_jax.benchmark import input as input_rates
from effdet_jax.config import ConfigError, get_config
from effdet_jax.data.sample import AugmentSettings
from tests.doubles import Images


def test_rates_of_a_core_and_of_whole_batches():
    config = get_config()
    config.data.source, config.model.image_size = "shapes", "64"
    report = input_rates.rates(config, [0], batch_size=4, seconds=0.2)
    (row,) = report["pipeline"]
    assert row["workers"] == 0 and row["images_per_second"] > 0
    assert "batches of 4" in input_rates.lines(report)[0]


def test_each_part_of_an_image_is_timed_by_itself(monkeypatch):
    spent = {"read": 0.03, "augment": 0.01}
    clock = [0.0]

    class Slow(Images):
        def __getitem__(self, index):
            clock[0] += spent["read"]
            return super().__getitem__(index)

    def create_augment(settings):
        def augment(*_):
            clock[0] += spent["augment"]

        return augment

    monkeypatch.setattr(input_rates.time, "thread_time", lambda: clock[0])
    monkeypatch.setattr(input_rates, "Augment", create_augment)
    core = input_rates._core(Slow(3), AugmentSettings((64, 64)), seconds=1.0)
    # Images per second: 1 / 30 ms, 1 / 10 ms, 1 / 40 ms.
    assert core == {"read": 33.3, "augment": 100.0, "both": 25.0}


def test_a_rate_counts_images_not_batches(monkeypatch):
    clock = iter([0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.0])
    monkeypatch.setattr(input_rates.time, "perf_counter", lambda: next(clock))
    batches = itertools.repeat({"image": np.zeros((4, 8, 8, 3))})
    assert input_rates._rate(batches, seconds=2.0) == 4 * 4 / 2


def test_workers_that_are_no_numbers_are_an_error():
    with pytest.raises(ConfigError, match="--workers=two"):
        input_rates.main(get_config(), ["two"], 4, 0.1, as_json=False)
