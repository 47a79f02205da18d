from effdet_jax.run.schedule import Plan


def test_durations_become_steps():
    plan = Plan.of(
        205, 16, num_epochs=100.0, warmup_epochs=5.0, drop_epochs=(50.0,), eval_every_epochs=20.0
    )
    # 205 / 16 = 12.8125 steps per epoch; batches run on over the ends of epochs.
    assert (plan.total_steps, plan.warmup_steps, plan.drop_steps) == (1281, 64, (640,))
    assert (plan.eval_every, plan.save_every) == (257, 13)


def test_steps_go_before_epochs():
    assert Plan.of(205, 16, num_epochs=100.0, num_steps=7).total_steps == 7


def test_evaluation_at_the_end_always_and_a_checkpoint_with_it():
    plan = Plan.of(10, 2, num_epochs=2.0, eval_every_epochs=0.0, save_every_epochs=0.6)
    assert [step for step in range(1, 11) if plan.evaluates_after(step)] == [10]
    assert [step for step in range(1, 11) if plan.saves_after(step)] == [3, 6, 9, 10]
