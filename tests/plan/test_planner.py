import dataclasses

import jax
import pytest

from effdet_jax.config import ConfigError
from effdet_jax.plan import aot
from effdet_jax.plan.chips import TopologyError
from effdet_jax.plan.job import Job
from effdet_jax.plan.planner import Planner, find_target, with_changes
from effdet_jax.plan.program import Program
from tests.tiny import tiny_config

GIB = 2**30


@pytest.fixture
def compiled(monkeypatch):
    """Programs of a quarter of a GiB per image and device, without a compiler; what was asked for."""
    asked = []

    def compile_ahead(build, topology):
        (config,) = build.args
        devices = topology.chips * topology.chip.devices
        asked.append((config.batch_size, config.remat))
        job = Job("m", (64, 64), config.batch_size, "bfloat16", 1e9, {"parameters": 1}, 3 * 64**2)
        per_image = GIB // 8 if config.remat == "full" else GIB // 4
        return job, Program(GIB // 4 + per_image * (config.batch_size // devices))

    monkeypatch.setattr(aot, "compile_ahead", compile_ahead)
    return asked


def planner(topology="v5e-8"):
    return Planner(find_target(topology))


def test_a_target_is_a_slice_or_this_machine():
    assert dataclasses.astuple(find_target("v3-8"))[:2] == ("v3:2x2", 8)
    assert find_target("v3-8").memory == 16 * GIB - 258 * 2**20  # A device is half a chip.
    here = find_target("")
    assert (here.devices, here.memory, here.topology) == (jax.device_count(), 0, None)
    with pytest.raises(TopologyError, match="v5e-9"):
        find_target("v5e-9")


def test_a_plan_names_the_target_and_the_versions(compiled):
    report = planner().plan(tiny_config(batch_size=16))
    assert report["fits"] and report["memory"]["peak"] == 3 * GIB // 4
    assert (report["target"], report["devices"]) == ("v5e:2x4", 8)
    assert report["versions"]["jax"] == jax.__version__


def test_a_program_larger_than_the_device_does_not_fit(compiled):
    # 15.75 GiB hold 62 quarters less one: 61 images, and no 62nd.
    one = planner("v5e-1")
    assert one.plan(tiny_config(batch_size=61))["fits"]
    report = one.plan(tiny_config(batch_size=63))
    assert not report["fits"] and report["error"] == "out of memory"


def test_a_config_is_compiled_once(compiled):
    one = planner()
    config = tiny_config(batch_size=16)
    assert one.plan(config) == one.plan(with_changes(config, {}))
    assert compiled == [(16, "none")]


def test_the_largest_batch_is_found(compiled):
    report = planner().largest(tiny_config(batch_size=16))
    # 48 images per device, not 64, which was tried.
    assert report["batch_size"] == 8 * 48 and report["fits"]
    assert report["tried"][str(8 * 64)] > 15.75 * GIB
    assert (8 * 64, "none") in compiled


def test_remedies_are_those_of_the_config_and_the_largest_batch(compiled):
    rows = list(planner().remedies(tiny_config(batch_size=8 * 100)))
    by_change = {next(iter(row["changes"].items())): row for row in rows}
    assert by_change["remat", "full"] == {
        "changes": {"remat": "full"},
        "fits": True,
        "peak": GIB // 4 + 100 * GIB // 8,
    }
    assert not by_change["remat", "blocks"]["fits"]
    assert rows[-1]["changes"] == {"batch_size": 8 * 48} and rows[-1]["fits"]


def test_memory_that_is_not_known_is_no_reason_to_guess():
    with pytest.raises(ConfigError, match="--batch=auto: how much memory a cpu has isn't known"):
        planner("").largest(tiny_config(batch_size=16))


def test_changes_leave_the_config_as_it_is():
    config = tiny_config(batch_size=16)
    changed = with_changes(config, {"optim.momentum": 0.8})
    assert changed.optim.momentum == 0.8 != config.optim.momentum
