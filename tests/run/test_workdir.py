import errno
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from effdet_jax.errors import UserError
from effdet_jax.run import workdir
from effdet_jax.run.workdir import Workdir, WorkdirError

HOLD = """
import sys, time
from effdet_jax.run.workdir import Workdir
with Workdir(sys.argv[1]).lock():
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
            pytest.raises(WorkdirError, match=rf"{tmp_path} \(process {holder.pid} on .+\)"),
            Workdir(tmp_path).lock(),
        ):
            pass
    assert issubclass(WorkdirError, UserError)
    holder.kill()
    holder.wait()
    for _ in range(2):
        with Workdir(tmp_path).lock():
            pass


def test_the_other_processes_of_a_run_do_not_ask(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with Workdir(tmp_path).lock():
        assert f"process {holder.pid} on" in (tmp_path / ".lock").read_text()


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def lockf(*arguments):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(workdir.fcntl, "lockf", lockf)
    with Workdir(tmp_path).lock():
        assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()


def test_the_layout_and_what_is_written_into_it(tmp_path):
    folder = Workdir(tmp_path / "new" / "run")
    folder.write_config({"batch_size": 4})
    folder.write_picture("train_batch", np.zeros((20, 30, 3), np.uint8))
    for faults in ({"box": ["a"]}, {"box": ["a", "é"]}):
        folder.write_data_report({"train": faults})
    assert sorted(os.listdir(folder.path)) == ["config.json", "data_report.json", "train_batch.jpg"]
    report = (tmp_path / "new" / "run" / "data_report.json").read_text("utf-8")
    assert json.loads(report) == {"train": {"box": ["a", "é"]}}
    assert json.loads((tmp_path / "new" / "run" / "config.json").read_text()) == {"batch_size": 4}
    assert folder.best == str(tmp_path / "new" / "run" / "checkpoints" / "best")
    assert str(folder) == str(tmp_path / "new" / "run")


def test_the_other_processes_of_a_run_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    folder = Workdir(tmp_path)
    folder.write_config({})
    folder.write_data_report({})
    folder.write_picture("train_batch", np.zeros((20, 30, 3), np.uint8))
    assert not os.listdir(tmp_path)


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="can't write into --workdir=.*choose another folder"):
        Workdir(tmp_path / "file" / "run")
