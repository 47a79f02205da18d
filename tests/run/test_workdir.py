import errno
import os
import subprocess
import sys

import jax
import pytest

from effdet_jax.errors import UserError
from effdet_jax.run import workdir
from effdet_jax.run.workdir import WorkdirInUseError, only_training_in

HOLD = """
import sys, time
from effdet_jax.run.workdir import only_training_in
with only_training_in(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_training_is_refused_and_told_of_the_first_until_that_is_gone(holder, tmp_path):
    for _ in range(2):  # Being refused lets nobody in.
        with (
            pytest.raises(WorkdirInUseError, match=rf"{tmp_path} \(process {holder.pid} on .+\)"),
            only_training_in(tmp_path),
        ):
            pass
    assert issubclass(WorkdirInUseError, UserError)
    holder.kill()
    holder.wait()
    for _ in range(2):
        with only_training_in(tmp_path):
            pass


def test_the_other_processes_of_a_run_do_not_ask(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with only_training_in(tmp_path):
        assert f"process {holder.pid} on" in (tmp_path / ".lock").read_text()


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def lockf(*arguments):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(workdir.fcntl, "lockf", lockf)
    with only_training_in(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()
