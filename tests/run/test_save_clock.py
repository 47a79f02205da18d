import time

from effdet_jax.run.save_clock import SaveClock


def test_a_checkpoint_is_due_by_the_minute_and_then_not_for_another(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock, never = SaveClock(0.5), SaveClock(0)
    now[0] += 29
    assert not clock.due(agreed=False)
    now[0] += 1
    assert clock.due(agreed=False) and clock.due(agreed=True) and not never.due(agreed=True)
    clock.reset()
    assert not clock.due(agreed=True)


def test_several_processes_go_by_the_first_ones_clock(monkeypatch):
    heard = []

    def hear(value):
        heard.append(bool(value))
        return True

    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("effdet_jax.run.save_clock.multihost_utils.broadcast_one_to_all", hear)
    clock = SaveClock(60)
    assert not clock.due(agreed=False) and not heard  # Not asked between agreed steps.
    assert clock.due(agreed=True) and heard == [False]
