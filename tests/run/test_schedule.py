import pytest

from effdet_jax.config import ConfigError
from effdet_jax.run.schedule import Schedule


def test_durations_become_steps():
    schedule = Schedule.from_epochs(
        205, 16, num_epochs=100.0, warmup_epochs=5.0, drop_epochs=(50.0,), eval_every_epochs=20.0
    )
    # 205 / 16 = 12.8125 steps per epoch; batches run on over the ends of epochs.
    assert (schedule.total_steps, schedule.warmup_steps, schedule.drop_steps) == (1281, 64, (640,))
    assert (schedule.eval_every, schedule.save_every) == (257, 13)


def test_steps_go_before_epochs():
    assert Schedule.from_epochs(205, 16, num_epochs=100.0, num_steps=7).total_steps == 7


def test_no_steps_at_all_are_refused():
    with pytest.raises(ConfigError, match="0.05 epochs of 100 images in batches of 16 are zero"):
        Schedule.from_epochs(100, 16, num_epochs=0.05)
    assert Schedule.from_epochs(100, 16, num_epochs=0.16).total_steps == 1


def test_evaluation_at_the_end_always_and_a_checkpoint_with_it():
    schedule = Schedule.from_epochs(
        10, 2, num_epochs=2.0, eval_every_epochs=0.0, save_every_epochs=0.6
    )
    assert [step for step in range(1, 11) if schedule.evaluates_after(step)] == [10]
    assert [step for step in range(1, 11) if schedule.saves_after(step)] == [3, 6, 9, 10]


def test_rows_at_whole_intervals_and_at_the_end():
    schedule = Schedule.from_epochs(10, 2, num_epochs=2.0, log_every_steps=4)
    assert [step for step in range(1, 11) if schedule.logs_after(step)] == [4, 8, 10]
