import itertools
import math

import numpy as np
import pytest

from effdet_jax.run.monitor import StepWatch, TrainingError, format_duration, mean_metrics


def make_watch(**changes):
    options = {"batch_size": 2, "steps_per_epoch": 4.0, "total_steps": 8, "max_bad_steps": 3}
    return StepWatch(**(options | changes), describe=lambda index: f"image {index}")


def batch(first=0, valid=True, dropped=0):
    return {
        "index": np.array([first, first + 1]),
        "valid": np.array([valid, True]),
        "dropped": np.array([dropped, 0]),
        "boxes": np.zeros((2, 5, 4)),
    }


def metrics(loss=1.0, finite=True):
    return {
        "loss/total": np.float32(loss),
        "loss/class": np.float32(loss / 2),
        "loss/box": np.float32(0.01),
        "optim/learning_rate": np.float32(0.1),
        "optim/grad_norm": np.float32(2.0),
        "finite": np.bool_(finite),
    }


def test_an_interval_is_summed_up_in_a_line(capsys):
    watch = make_watch()
    for step, loss in ((1, 1.0), (2, 3.0)):
        watch.add(step, batch(), metrics(loss))
    row = watch.finish_interval(2)
    assert row["loss/total"] == 2.0 and row["epoch"] == 0.5 and row["optim/bad_steps"] == 0
    assert row["perf/images_per_second"] > 0
    line = capsys.readouterr().out
    for part in (
        "step 2/8",
        "epoch 0.5",
        "loss 2.0000 (class 1.0000",
        "images/s",
        "data-wait",
        "ETA",
    ):
        assert part in line


def test_bad_steps_are_named_counted_and_left_out_of_the_mean(capsys):
    watch = make_watch()
    watch.add(1, batch(), metrics(1.0))
    watch.add(2, batch(6), metrics(math.nan, finite=False))
    row = watch.finish_interval(2)
    assert row["loss/total"] == 1.0 and row["optim/bad_steps"] == 1
    assert "step 2 skipped: loss nan, gradient norm 2.0. Its images: image 6, image 7" in (
        capsys.readouterr().err
    )


def test_too_many_bad_steps_in_a_row_stop_the_run():
    watch = make_watch()
    bad = metrics(math.inf, finite=False)
    for step, row in enumerate([bad, bad, metrics(), bad, bad], start=1):
        watch.add(step, batch(), row)  # Never three in a row.
    watch.add(6, batch(), bad)
    with pytest.raises(TrainingError, match="3 steps in a row, up to step 6.*learning_rate"):
        watch.settle()


def test_images_in_trouble_are_named_once(capsys):
    watch = make_watch()
    for step in (1, 2):
        watch.add(step, batch(valid=False), metrics())
        watch.add(step, batch(first=8, dropped=4), metrics())
    printed = capsys.readouterr().err
    assert printed.count("image 0: can't be read") == 1
    assert printed.count("image 8: 4 boxes left out: bad ones, or more than the 5 of") == 1


def test_pauses_do_not_count_and_waiting_does():
    watch = make_watch()
    watch.next_batch(itertools.repeat({}))
    watch.add(1, batch(), metrics())
    watch.pause(-100.0)  # As if the interval had lasted 100 s more.
    row = watch.finish_interval(1)
    assert 0.015 < row["perf/images_per_second"] <= 0.02 and row["data/wait_fraction"] < 0.01


def test_mean_of_nothing_finite_is_nan():
    assert math.isnan(mean_metrics([metrics(finite=False)])["loss/total"])


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.4, "5 s"), (600, "10 min"), (4 * 3600 + 300, "4 h 05 min")]
)
def test_durations_read_well(seconds, text):
    assert format_duration(seconds) == text
