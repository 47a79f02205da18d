import os
import signal

from effdet_jax.run.stop import StopSignal


def test_signals_set_a_wish_and_are_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.requested(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested(1)
    assert signal.getsignal(signal.SIGTERM) is before
