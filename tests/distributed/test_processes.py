import os
import re
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from effdet_jax.checkpoint import Checkpoints
from effdet_jax.distributed import processes
from effdet_jax.distributed.processes import ProcessError, connected, roll_call
from tests.conftest import ROOT


def free_port():
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def call_together(indices, count, wait_seconds):
    """{index: the error of that process's roll call, or None}, all called at the same time."""
    address, outcome = f"localhost:{free_port()}", {}

    def one(index):
        try:
            outcome[index] = roll_call(address, count, index, wait_seconds)
        except ProcessError as error:
            outcome[index] = str(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in indices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return outcome


def test_all_are_there():
    assert call_together([2, 0, 1, 3], 4, 30) == dict.fromkeys(range(4))


def test_who_does_not_arrive_is_named_to_all():
    outcome = call_together([0, 2], 4, 1.5)
    expected = f"process 1, 3 of 4 didn't arrive; there are 0 on {socket.gethostname()}, 2 on "
    assert outcome.keys() == {0, 2}
    assert all(expected in message and "--wait-seconds" in message for message in outcome.values())
    assert outcome[0].startswith("after 2 s process 1, 3")


def test_process_0_that_does_not_arrive_is_named():
    outcome = call_together([1], 2, 1)
    assert "after 1 s process 0 isn't to be reached at localhost:" in outcome[1]


def test_a_stranger_at_the_port_is_no_process():
    port = free_port()
    host = threading.Thread(target=roll_call, args=(f"localhost:{port}", 2, 0, 30))
    host.start()
    for _ in range(100):
        try:
            with socket.create_connection(("localhost", port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
            break
        except OSError:
            time.sleep(0.05)
    roll_call(f"localhost:{port}", 2, 1, 30)
    host.join(timeout=30)
    assert not host.is_alive()


def test_a_port_in_use_is_said():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ProcessError, match=f"port {port} of --coordinator can't be opened"):
            roll_call(f"localhost:{port}", 2, 0, 5)


@pytest.mark.parametrize("arguments", [(), ("localhost:1", 1, 0)])
def test_alone_nothing_is_set_up(arguments, capsys):
    with connected(*arguments):
        print("heard")
    assert not jax.distributed.is_initialized() and capsys.readouterr().out == "heard\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", 0, -1), "needs --num-processes=N and --process-id=I, too"),
        (("", 2, 1), "needs --coordinator=HOST:PORT, too"),
        (("host:1", 2, 2), "--process-id=2 isn't below --num-processes=2"),
        (("host", 2, 1), "--coordinator=host has no port"),
    ],
)
def test_what_is_missing_is_said(given, message):
    with pytest.raises(ProcessError, match=message):
        processes._given(*given, environ={})


def test_arguments_come_from_the_environment_too():
    environ = {
        "JAX_COORDINATOR_ADDRESS": "job-0.service:1234",
        "JAX_NUM_PROCESSES": "4",
        "JOB_COMPLETION_INDEX": "3",
    }
    assert processes._given("", 0, -1, environ) == ("job-0.service:1234", 4, 3, None)
    assert processes._given("", 0, -1, environ | {"JAX_PROCESS_ID": "0"})[2] == 0
    assert processes._given("a:1", 2, 1, environ) == ("a:1", 2, 1, None)
    assert processes._given("", 0, -1, {"JOB_COMPLETION_INDEX": "3"}) is None


def test_slurm_is_found(monkeypatch):
    for name, value in {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_NODELIST": "node[01-02]",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_NTASKS": "8",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
    }.items():
        monkeypatch.setenv(name, value)
    address, count, index, devices = processes._from_cluster(10)
    assert address.startswith("node01:") and (count, index, devices) == (8, 5, [1])


def test_open_mpi_is_found(monkeypatch):
    for name, value in {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_RANK": "3",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    address, count, index, devices = processes._from_cluster(10)
    assert address.startswith("10.96.0.1:") and (count, index, devices) == (4, 3, [1])


def test_no_cluster_is_one_process():
    assert processes._from_cluster(10) == ("", 1, 0, None)


def test_a_cluster_that_cannot_be_asked_is_said(monkeypatch, capsys):
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1.0;nowhere")
    assert processes._from_cluster(10) == ("", 1, 0, None)
    assert "going on alone: Could not parse coordinator IP" in capsys.readouterr().err


PROGRAM = """
import os, signal, sys
import jax, jax.numpy as jnp, numpy as np
from effdet_jax.checkpoint import Checkpoints, Metadata
from effdet_jax.data.pipeline import eval_batches
from effdet_jax.evaluation.boxes import BoxScorer
from effdet_jax.evaluation.loop import evaluate
from effdet_jax.distributed import mesh as sharding
from effdet_jax.distributed.processes import connected, wait_for_all
from effdet_jax.run.stop import StopSignal
from effdet_jax.spec import model_spec
from tests.doubles import Images
from tests.evaluation.test_loop import find_the_box, jitted

address, index, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with connected(address, 2, index, 60):
    print("said by process", index)
    mesh = sharding.create_mesh(4, fsdp=2)
    assert sharding.process_share(mesh) == (index, 2) and mesh.size == 4
    # Each process gives its rows of a batch; the sum is of all.
    rows = {"image": np.full((2, 2, 2, 3), index + 1, np.uint8)}
    batch = sharding.place_batch(rows, mesh)
    total = jax.jit(lambda image: jnp.sum(image.astype(jnp.int32)))(batch["image"])
    assert total == 2 * 12 * (1 + 2), total
    # Every image is evaluated once, and every process knows of all.
    source = Images(7, broken=(5,))
    batches = eval_batches(
        source,
        image_size=(64, 64),
        other_sizes=((32, 32),),
        batch_size=4,
        process_index=index,
        process_count=2,
    )
    scorer = BoxScorer(source)
    place = lambda batch: sharding.place_evaluation_batch(batch, mesh)
    result = evaluate(jitted(find_the_box, mesh), np.zeros(()), source, batches, place, scorer)
    assert [row["image_id"] for row in result.results] == [f"{n}.png" for n in (0, 1, 2, 3, 4, 6)]
    assert result.unreadable == ["image 5"]
    assert abs(result.loss["loss/total"] - (0 + 1 + 2 + 3 + 4 + 6) / 6) < 1e-5
    # A checkpoint of arrays that no process has whole.
    shapes = {"w": jax.ShapeDtypeStruct((128, 64), jnp.float32)}
    shardings = sharding.state_sharding(shapes, mesh)
    assert tuple(shardings["w"].spec) == ("fsdp",)
    tree = {"w": jnp.arange(8192.0).reshape(128, 64)}
    tree = jax.jit(lambda: tree, out_shardings=shardings)()
    checkpoints = Checkpoints(folder)
    metadata = Metadata(model_spec("efficientdet-d0"), source.class_names, {}, step=3)
    checkpoints.save(metadata, tree, tree)
    checkpoints.close()
    wait_for_all("saved")
    assert (jax.device_get(sharding.replicate(tree, mesh))["w"] == np.arange(8192.0).reshape(128, 64)).all()
    # A signal to one process stops both after the same step.
    with StopSignal() as stop:
        for step in range(1, 10_000):
            if index == 1 and step == 5:
                os.kill(os.getpid(), signal.SIGINT)
            total = jax.jit(lambda x: x + 1)(total).block_until_ready()
            if stop.requested(step):
                break
    print("stopped after", step, file=sys.stderr)
"""


def test_two_processes_are_one_program(tmp_path):
    address = f"localhost:{free_port()}"
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": str(ROOT),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(index), str(tmp_path / "checkpoints")],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    (said, errors), (silent, other_errors) = outputs
    assert "said by process 0" in said and "said by" not in silent
    stops = [re.search(r"stopped after (\d+)", text).group(1) for text in (errors, other_errors)]
    assert stops[0] == stops[1] and 5 <= int(stops[0]) < 9_999
    # One process on one device reads what two with two each have written.
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {"w": jax.ShapeDtypeStruct((128, 64), np.float32, sharding=one)}
    loaded = Checkpoints(tmp_path / "checkpoints").restore(ema=abstract)["ema"]["w"]
    np.testing.assert_array_equal(loaded, np.arange(8192.0).reshape(128, 64))
