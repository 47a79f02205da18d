import dataclasses
import importlib.util
import json

import jax
import pytest

from effdet_jax.config import ConfigError
from effdet_jax.plan import __main__ as plan
from effdet_jax.plan import aot, chips
from effdet_jax.plan.hlo import Collective
from effdet_jax.plan.program import Program
from effdet_jax.plan.report import Job, lines, make_report
from tests.tiny import tiny_config

GIB = 2**30
PROGRAM = Program(
    peak=4 * GIB, traffic=81.9e9, collectives=(Collective("all-reduce", 0, 100, 10**7, 10**6),)
)


@pytest.fixture
def tiny():
    return tiny_config(batch_size=16)


@pytest.fixture
def compiled(monkeypatch):
    """Programs of a quarter of a GiB per image and device, without a compiler; what was asked for."""
    asked = []

    def compile_ahead(build, topology, *, full=False):
        (config,) = build.args
        devices = topology.chips * topology.chip.devices
        asked.append(config.batch_size)
        job = Job(
            model=config.model.name,
            image_size=(64, 64),
            batch_size=config.batch_size,
            dtype="bfloat16",
            flops=1e9,
            state={"parameters": GIB // 8, "optimizer": GIB // 8},
            image_bytes=3 * 64 * 64,
        )
        peak = GIB // 4 * (1 + config.batch_size // devices)
        return job, dataclasses.replace(PROGRAM, peak=peak, complete=full)

    monkeypatch.setattr(aot, "compile_ahead", compile_ahead)
    return asked


def run(config, capsys, **flags):
    defaults = {
        "topology": "v5e-8",
        "batch": "",
        "full": False,
        "remedies": True,
        "as_json": True,
    }
    status = plan.main(config, **(defaults | flags))
    return status, capsys.readouterr().out


def test_a_plan_says_memory_work_exchanges_and_speed(tiny, compiled, capsys):
    status, text = run(tiny, capsys)
    report = json.loads(text)
    assert status == 0 and report["fits"] and compiled == [16]
    assert report["target"] == "v5e:2x4" and report["devices"] == 8 and report["hosts"] == 1
    assert report["memory"]["peak"] == 3 * GIB // 4
    assert report["memory"]["activations"] == GIB // 2 - 2 * 3 * 64 * 64
    # 81.9 GB at 819 GB/s; 2 · 7/8 · 10 MB at 100 GB/s; 100 messages there and back, 4 hops of 1 µs.
    step = 0.1 + 2 * 7 / 8 * 1e7 / 100e9 + 100 * 2 * 4e-6
    assert report["bound"]["step"] == pytest.approx(step)
    assert report["images_per_second"] == pytest.approx(16 / step)
    assert report["epoch_seconds"] == pytest.approx(118_287 / 16 * step)
    assert report["input"]["bytes_per_second_per_host"] == pytest.approx(16 / step * 3 * 64 * 64)
    assert report["assumptions"]
    for line in ("fits", "all-reduce", "images/s", "COCO's epoch", "assumed"):
        assert line in "\n".join(lines(report))


def test_one_chip_says_nothing_of_many(tiny, compiled, capsys):
    _, text = run(tiny, capsys, topology="v5e-1")
    assert "weak_scaling" not in json.loads(text)
    _, text = run(tiny, capsys, topology="v5e-4")
    assert json.loads(text)["weak_scaling"][0]["efficiency"] == 1.0


def test_the_largest_batch_is_found(tiny, compiled, capsys):
    _, text = run(tiny, capsys, batch="auto")
    # 15.75 GiB hold 62 quarters less one: 48 images per device, not 64.
    assert json.loads(text)["batch_size"] == 8 * 48
    assert 8 * 64 in compiled


def test_what_does_not_fit_comes_with_what_would(tiny, compiled, capsys):
    status, text = run(tiny, capsys, batch="1024", as_json=False)
    assert status == 1
    assert "doesn't fit: out of memory" in text
    assert "--config.batch_size=384: 12.25 GiB, fits" in text


def test_without_libtpu_the_message_says_how_to_get_it(tiny, capsys, monkeypatch):
    monkeypatch.setattr(aot, "libtpu_version", lambda: "")
    with pytest.raises(aot.CompilerError, match=r"pip install 'jax\[tpu\]==") as caught:
        run(tiny, capsys)
    assert jax.__version__ in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ({"batch": "many"}, ConfigError),
        ({"batch": "0"}, ConfigError),
        ({"batch": "auto", "topology": ""}, ConfigError),  # A CPU doesn't say what it may use.
        ({"topology": "v5e-9"}, chips.TopologyError),
    ],
)
def test_wrong_flags_are_named(tiny, compiled, capsys, flags, error):
    with pytest.raises(error, match=next(iter(flags.values()))):
        run(tiny, capsys, **flags)


def test_unknown_peaks_are_no_reason_to_guess(tiny):
    job = Job("m", (64, 64), 8, "float32", 1e9, {"parameters": 1}, 3)
    target = plan.Target("cpu", 8, 1, 0, None)
    report = make_report(job, target, PROGRAM)
    assert report["fits"] and report["bound"] is None
    assert "peaks of cpu aren't known here" in "\n".join(lines(report))


def test_state_is_counted_as_it_is_sharded(tiny):
    _step, (state, _batch), job = plan.build(tiny, jax.devices())
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert job.state["parameters"] == 4 * parameters
    assert job.state["optimizer"] == 4 * parameters  # Momentum.
    # 64 × 64 × 3 bytes, 100 boxes and labels, two sides of the content, one flag.
    assert job.image_bytes == 64 * 64 * 3 + 100 * (16 + 4) + 8 + 1
    assert job.dtype == "float32"


@pytest.mark.slow
def test_the_devices_of_this_machine_will_do(tiny, capsys):
    status, text = run(tiny, capsys, topology="")
    report = json.loads(text)
    assert status == 0 and report["target"] == "cpu" and report["devices"] == 8
    assert report["memory"]["peak"] > 3 * report["memory"]["parameters"]
    assert report["collectives"][0]["kind"] == "all-reduce"
    assert report["flops"]["compiler"] > 0.5 * report["flops"]["model"]


@pytest.mark.slow
def test_libtpu_compiles_the_real_step(tiny, capsys):
    if not importlib.util.find_spec("libtpu"):
        pytest.skip(f"needs libtpu: pip install 'jax[tpu]=={jax.__version__}'")
    reports = {}
    for full in (False, True):
        status, text = run(tiny, capsys, topology="v5e:2x2", full=full)
        assert status == 0
        reports[full] = json.loads(text)
    early, late = reports[False], reports[True]
    assert early["dtype"] == "bfloat16" and early["devices"] == 4
    # What is known before there is machine code is what is known after it; code comes on top.
    for same in ("collectives", "traffic"):
        assert early[same] == late[same]
    assert 0 < late["memory"]["peak"] - early["memory"]["peak"] < 64 * 2**20
    assert late["expected"]["step"] > late["bound"]["step"]
