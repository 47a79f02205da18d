"""Several processes train, evaluate, save and stop as one: the whole program, on loopback.

Slow: every process compiles the step. `distributed/test_processes.py` has the parts.
"""

import os
import shutil
import signal

import numpy as np
import pytest

from effdet_jax.checkpoint import LAST, Checkpoints
from tests.distributed.test_processes import free_port
from tests.processes import TINY, rows, wait_for
from tests.quick import QUICK_FLAGS

pytestmark = pytest.mark.slow
RUN = (
    *TINY,
    "--config.batch_size=8",
    "--config.data.shapes_train=32",  # Saved every 4, an epoch.
    "--config.eval.every_epochs=0",
    "--config.mesh.fsdp=2",
    # So small that parameters hardly move: batch normalisation over the 8 values of P7 makes another
    # order of sums, in float32, another run within four steps. `training/test_step.py` has updates.
    "--config.optim.name=sgd",
    "--config.optim.learning_rate=1e-4",
)


@pytest.fixture(scope="module")
def start_all(start_command):
    """Starts a run of several processes of `devices` fake devices each."""

    def start_all(workdir, *arguments, processes=1, devices=1):
        address = f"--coordinator=localhost:{free_port()}"
        return [
            start_command(
                "train",
                *RUN,
                *arguments,
                f"--workdir={workdir}",
                *([address, f"--num-processes={processes}", f"--process-id={index}"]),
                XLA_FLAGS=f"{QUICK_FLAGS} --xla_force_host_platform_device_count={devices}",
            )
            for index in range(processes)
        ]

    return start_all


def finish(processes):
    """Outputs in the order of the processes, which all must have ended well."""
    outputs = [process.communicate(timeout=1200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


@pytest.fixture(scope="module")
def alone(start_all, tmp_path_factory):
    """Workdir of one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone")
    finish(start_all(workdir, devices=4))
    return workdir


def assert_same_run(workdir, other, *, since=0):
    """The same rows of metrics, up to the order of sums in float32."""
    found, expected = rows(workdir), rows(other)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for a, b in zip(found, expected):
        assert a.keys() == b.keys()
        for name in a:
            if a["step"] > since and name.startswith(("loss/", "data/num", "optim/")):
                rtol = 0.1 if name == "optim/grad_norm" else 1e-4
                np.testing.assert_allclose(a[name], b[name], rtol, err_msg=f"{name} {a['step']}")


@pytest.mark.parametrize(
    ("processes", "fsdp", "spatial"), [(2, 2, 1), (4, 2, 1), (2, 1, 4)], ids=str
)
def test_several_processes_train_the_numbers_of_one(
    start_all, alone, tmp_path, processes, fsdp, spatial
):
    split = (f"--config.mesh.fsdp={fsdp}", f"--config.mesh.spatial={spatial}")
    outputs = finish(start_all(tmp_path, *split, processes=processes, devices=4 // processes))
    mesh = f"data {4 // fsdp // spatial} × fsdp {fsdp} × spatial {spatial}"
    assert f"devices    4 × cpu of {processes} processes, mesh {mesh}" in outputs[0]
    assert "evaluation after step 12" in outputs[0]
    assert not any("step 1/12" in output for output in outputs[1:])  # One writes the log.
    assert_same_run(tmp_path, alone)


def test_killed_while_saving_and_resumed_by_fewer_on_another_mesh(start_all, alone, tmp_path):
    first = tmp_path / "first"
    running = start_all(first, processes=4)
    wait_for(lambda: any(first.glob(f"{LAST}/8*")) or running[2].poll() is not None, seconds=1200)
    os.kill(running[2].pid, signal.SIGKILL)
    for process in running:  # The others can't go on: they end, too.
        process.communicate(timeout=300)
        assert process.returncode != 0
    saved = Checkpoints(first / LAST, read_only=True).latest_step
    assert saved in (4, 8)
    shutil.copytree(first, tmp_path / "second")
    for workdir, arguments, shape in (
        (first, ("--config.mesh.fsdp=1",), {"processes": 1, "devices": 1}),
        (tmp_path / "second", ("--config.mesh.fsdp=4",), {"processes": 2, "devices": 2}),
    ):
        (output, *_) = finish(start_all(workdir, *arguments, **shape))
        assert f"resuming   from step {saved}" in output
        assert_same_run(workdir, alone, since=saved)


def test_a_signal_to_one_stops_all_after_the_same_step(start_all, tmp_path):
    running = start_all(tmp_path, processes=4)
    metrics = tmp_path / "metrics.jsonl"
    wait_for(
        lambda: metrics.exists() and metrics.read_text() or running[0].poll() is not None, 1200
    )
    running[3].terminate()
    outputs = finish(running)
    done = Checkpoints(tmp_path / LAST, read_only=True).latest_step
    assert 0 < done < 12 and f"stopped after step {done}" in outputs[0]
    assert rows(tmp_path)[-1]["step"] == done


def test_a_process_that_does_not_arrive_is_named(start_command, tmp_path):
    process = start_command(
        "train",
        *RUN,
        f"--workdir={tmp_path}",
        f"--coordinator=localhost:{free_port()}",
        "--num-processes=3",
        "--process-id=0",
        "--wait-seconds=2",
    )
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in output
    assert "error: after 2 s process 1, 2 of 3 didn't arrive; there are 0 on " in output
