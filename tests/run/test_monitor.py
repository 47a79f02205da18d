import math
import time

import numpy as np
import pytest

from effdet_jax.run.monitor import Monitor, TrainingError, format_duration, mean_metrics


def make_monitor(**changes):
    options = {"batch_size": 2, "steps_per_epoch": 4.0, "total_steps": 8, "max_bad_steps": 3}
    options |= {"learning_rate": 0.08}
    return Monitor(**(options | changes), describe=lambda index: f"image {index}")


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
    monitor = make_monitor()
    for step, loss in ((1, 1.0), (2, 3.0)):
        monitor.add(step, batch(), metrics(loss))
    row = monitor.finish_interval(2)
    assert row["loss/total"] == 2.0 and row["epoch"] == 0.5 and row["optim/bad_steps"] == 0
    assert row["perf/images_per_second"] > 0
    line = capsys.readouterr().out
    for part in (
        "step 2/8",
        "epoch 0.5",
        "loss 2.0000 (box 0.01, class 1)",
        "images/s",
        "data-wait",
        "ETA",
    ):
        assert part in line


def test_bad_steps_are_named_counted_and_left_out_of_the_mean(capsys):
    monitor = make_monitor()
    monitor.add(1, batch(), metrics(1.0))
    monitor.add(2, batch(6), metrics(math.nan, finite=False))
    row = monitor.finish_interval(2)
    assert row["loss/total"] == 1.0 and row["optim/bad_steps"] == 1
    assert "step 2 skipped: loss nan, gradient norm 2.0. Its images: image 6, image 7" in (
        capsys.readouterr().err
    )


def test_too_many_bad_steps_in_a_row_stop_the_run():
    monitor = make_monitor()
    bad = metrics(math.inf, finite=False)
    for step, row in enumerate([bad, bad, metrics(), bad, bad], start=1):
        monitor.add(step, batch(), row)  # Never three in a row.
    monitor.add(6, batch(), bad)
    with pytest.raises(TrainingError, match="3 steps in a row, up to step 6.*learning_rate=0.02"):
        monitor.settle()


def test_the_step_that_destroyed_the_parameters_is_known():
    monitor = make_monitor()
    monitor.add(5, batch(), metrics())
    assert monitor.last_good_step == 4  # Where the run went on from.
    monitor.add(6, batch(), metrics(math.nan, finite=False))
    assert monitor.last_good_step == 5 and not monitor.in_trouble
    monitor.settle()
    assert monitor.last_good_step == 5 and monitor.in_trouble


def test_a_loss_that_stays_far_above_its_best_is_remarked_once(capsys):
    monitor = make_monitor()
    for step, loss in enumerate([2.0, 1.0, 3.5, 2.9, 3.1, 40.0, 50.0, 60.0, 1.0, 9, 9, 9], start=1):
        monitor.add(step, batch(), metrics(loss))
        monitor.finish_interval(step)
        said = capsys.readouterr().err
        # 3.1, 40 and 50 are the first three in a row above 3 × 1.
        assert ("training diverges" in said) is (loss == 50.0)
        if said:
            assert "more than 3 times 1, its best" in said and "learning_rate=0.02" in said
    assert monitor.loss == 9.0 and monitor.smallest_loss == 1.0


def test_images_in_trouble_are_named_once(capsys):
    monitor = make_monitor()
    for step in (1, 2):
        monitor.add(step, batch(valid=False), metrics())
        monitor.add(step, batch(first=8, dropped=4), metrics())
    printed = capsys.readouterr().err
    assert printed.count("image 0: can't be read") == 1
    assert printed.count("image 8: 4 boxes left out: bad ones, or more than the 5 of") == 1


def test_an_objective_of_other_parts_is_printed_likewise(capsys):
    monitor = make_monitor()
    parts = {"loss/total": np.float32(3), "loss/mask": np.float32(0.123456)}
    rest = {name: value for name, value in metrics().items() if not name.startswith("loss/")}
    monitor.add(1, batch(), parts | rest)
    monitor.finish_interval(1)
    assert "loss 3.0000 (mask 0.1235)" in capsys.readouterr().out


def slow_batches(now, seconds):
    now[0] += seconds
    yield {}


def test_pauses_do_not_count_and_waiting_does(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monitor = make_monitor()
    monitor.next_batch(slow_batches(now, seconds=6))
    monitor.add(1, batch(), metrics())
    with monitor.paused():
        now[0] += 30
    now[0] += 4
    row = monitor.finish_interval(1)
    assert row["perf/images_per_second"] == 2 / 10 and row["data/wait_fraction"] == 0.6


def test_mean_of_nothing_finite_is_nan():
    assert math.isnan(mean_metrics([metrics(finite=False)])["loss/total"])


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.4, "5 s"), (600, "10 min"), (4 * 3600 + 300, "4 h 05 min")]
)
def test_durations_read_well(seconds, text):
    assert format_duration(seconds) == text
