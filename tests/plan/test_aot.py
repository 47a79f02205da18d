import multiprocessing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from effdet_jax.config import ConfigError
from effdet_jax.plan import aot
from effdet_jax.plan.chips import parse_topology
from effdet_jax.plan.program import Program


def build(devices):
    """The mean over all devices' rows."""
    mesh = Mesh(np.array(devices), ("data",))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    mean = jax.jit(lambda x: jnp.mean(x, 0), out_shardings=whole)
    return mean, (jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=split),), "a mean"


def test_devices_of_this_machine_compile_to_the_end():
    about, program = aot.compile_here(build, jax.devices())
    assert about == "a mean" and program.fits and program.seconds > 0
    # Two of sixteen rows of 32 floats on each of eight devices, and the mean.
    assert 4 * 32 * (2 + 1) <= program.peak < 4 * 4 * 32 * (2 + 1)


def test_the_compiler_is_stopped_where_buffers_are_assigned(tmp_path):
    stem = "module_0003.jit_step.cl_1.after_optimizations"
    (tmp_path / f"{stem}_after_buffer_assignment.txt").touch()
    (tmp_path / f"{stem}-memory-usage-report.txt").write_text(
        "Memory Space: default (color=0)\nTotal bytes: 4096 (4.0KiB)\n"
    )
    receiver, _sender = multiprocessing.Pipe(duplex=False)  # Nothing comes over it.
    assert aot._wait(receiver, str(tmp_path)) == Program(4096)


def test_a_compiler_that_refuses_says_so_before_buffers_are_assigned(tmp_path):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    refused = Program(2**40, error="out of memory")
    sender.send(refused)
    assert aot._wait(receiver, str(tmp_path)) == refused


def test_what_a_compiler_sends_is_returned_or_raised():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    sender.send(7)
    assert aot._receive(receiver) == 7
    sender.send(aot.CompilerError("no such thing"))
    with pytest.raises(aot.CompilerError, match="no such thing"):
        aot._receive(receiver)
    sender.close()
    with pytest.raises(aot.CompilerError, match="died"):
        aot._receive(receiver)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ConfigError("4 rows on 8 devices"), ConfigError),
        (ValueError("4 rows on 8 devices"), ValueError),
        (KeyError("4 rows on 8 devices"), aot.CompilerError),
    ],
)
def test_an_error_of_the_config_stays_one_on_its_way_from_the_compiler(
    monkeypatch, tmp_path, raised, kind
):
    def build(devices):
        raise raised

    monkeypatch.setattr(aot, "topology_devices", lambda topology: jax.devices())
    monkeypatch.setattr(aot.os, "environ", dict(aot.os.environ))  # It sets variables for libtpu.
    receiver, sender = multiprocessing.Pipe(duplex=False)
    aot._compile_in_child(build, parse_topology("v5e-8"), str(tmp_path), sender)
    with pytest.raises(kind, match="4 rows on 8 devices"):
        aot._receive(receiver)


def test_progress_says_what_takes_how_long(capsys):
    with aot.progress("compiling", every=0.01):
        aot.time.sleep(0.1)
    text = capsys.readouterr().err
    assert text.startswith("compiling … 0 s\n") and text.endswith("compiling: 0 s\n")


def test_another_failure_than_memory_stays_one():
    class Refused:
        def lower(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        aot._compile(Refused(), (), {})
