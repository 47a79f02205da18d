import dataclasses

import pytest

from effdet_jax.plan.chips import parse_topology
from effdet_jax.plan.job import Job
from effdet_jax.plan.program import Program
from effdet_jax.plan.report import Target, lines, make_report

GIB = 2**30
JOB = Job(
    model="efficientdet-d0",
    image_size=(64, 128),
    batch_size=16,
    dtype="bfloat16",
    flops=1.97e12,
    state={"parameters": GIB // 8, "optimizer": GIB // 4, "averages": 2**20},
    image_bytes=3 * 64 * 128,
)
V5E = Target("v5e:2x4", 8, 15 * GIB, parse_topology("v5e-8"))


def test_memory_has_parts_that_add_up_to_the_peak():
    memory = make_report(JOB, V5E, Program(4 * GIB))["memory"]
    assert memory["device"] == 15 * GIB and memory["peak"] == 4 * GIB
    assert memory["batch"] == 2 * 3 * 64 * 128  # Two of sixteen images per device.
    parts = ("parameters", "optimizer", "averages", "batch", "activations")
    assert sum(memory[part] for part in parts) == 4 * GIB


@pytest.mark.parametrize(
    ("topology", "devices", "seconds"),
    # Two images of 1.97 TFLOP at 197 TFLOP/s; a device of v3 has half of 123 TFLOP/s.
    [("v5e-8", 8, 0.02), ("v3-8", 8, 2 * 1.97 / 61.5)],
)
def test_arithmetic_is_bounded_by_the_published_peak(topology, devices, seconds):
    target = dataclasses.replace(V5E, devices=devices, topology=parse_topology(topology))
    report = make_report(JOB, target, Program(GIB))
    assert report["flops"] == 2 * 1.97e12
    assert report["arithmetic_seconds"] == pytest.approx(seconds)


def test_devices_of_this_machine_have_no_published_peak():
    report = make_report(JOB, Target("cpu", 8, 0), Program(GIB))
    assert report["arithmetic_seconds"] is None
    assert not any(line.startswith("arithmetic") for line in lines(report))
    assert "memory      1.00 GiB per device: parameters 0.12 GiB" in lines(report)[1]


def test_lines_say_whether_it_fits_and_what_would():
    title, memory, arithmetic = lines(make_report(JOB, V5E, Program(4 * GIB)))
    assert title == (
        "efficientdet-d0 at 64×128, batch 16 = 2 per device, bfloat16, on v5e:2x4 (8 devices): fits"
    )
    assert "4.00 GiB of 15.00 GiB" in memory and "averages 1 MiB" in memory
    assert "at least 20 ms; real steps are slower" in arithmetic
    refused = make_report(JOB, V5E, Program(20 * GIB, 16 * GIB, error="out of memory"))
    refused["remedies"] = [{"changes": {"remat": "full"}, "fits": True, "peak": 3 * GIB}]
    text = lines(refused)
    assert text[0].endswith("doesn't fit: out of memory") and "20.00 GiB of 16.00 GiB" in text[1]
    assert text[-1] == "try         --config.remat=full: 3.00 GiB, fits"
