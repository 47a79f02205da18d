"""The command, `plan/__main__.py`."""

import importlib.util
import json

import jax
import pytest

from effdet_jax.config import ConfigError
from effdet_jax.plan import __main__ as plan
from effdet_jax.plan import aot
from effdet_jax.plan.job import Job
from effdet_jax.plan.program import Program
from tests.tiny import tiny_config


def run(capsys, **flags):
    defaults = {"topology": "v5e-8", "batch": "", "remedies": True, "as_json": True}
    status = plan.main(tiny_config(batch_size=16), **(defaults | flags))
    return status, capsys.readouterr().out


@pytest.fixture
def compiled(monkeypatch):
    """Programs of a quarter of a GiB per image and device, without a compiler."""

    def compile_ahead(build, topology):
        (config,) = build.args
        job = Job("m", (64, 64), config.batch_size, "bfloat16", 1e9, {"parameters": 1}, 3 * 64**2)
        return job, Program(2**28 * (1 + config.batch_size // topology.chips))

    monkeypatch.setattr(aot, "compile_ahead", compile_ahead)


def test_what_fits_ends_with_0(compiled, capsys):
    status, text = run(capsys)
    report = json.loads(text)
    assert status == 0 and report["fits"] and report["batch_size"] == 16
    assert report["memory"]["peak"] == 3 * 2**28


def test_what_does_not_fit_ends_with_1_and_comes_with_what_would(compiled, capsys):
    status, text = run(capsys, batch="1024", as_json=False)
    assert status == 1
    assert "doesn't fit: out of memory" in text
    assert "--config.batch_size=384: 12.25 GiB, fits" in text
    status, text = run(capsys, batch="1024", remedies=False)
    assert status == 1 and "remedies" not in json.loads(text)


def test_batch_auto_is_the_largest_that_fits(compiled, capsys):
    status, text = run(capsys, batch="auto")
    assert status == 0 and json.loads(text)["batch_size"] == 8 * 48


@pytest.mark.parametrize("batch", ["many", "0", "-1", "1.5"])
def test_a_batch_that_is_no_number_is_named(compiled, capsys, batch):
    with pytest.raises(ConfigError, match=f"--batch={batch} is neither a number nor 'auto'"):
        run(capsys, batch=batch)


def test_without_libtpu_the_message_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setattr(aot, "libtpu_version", lambda: "")
    with pytest.raises(aot.CompilerError, match=r"pip install 'jax\[tpu\]==") as caught:
        run(capsys)
    assert jax.__version__ in str(caught.value)


@pytest.mark.slow
def test_the_devices_of_this_machine_will_do(capsys):
    status, text = run(capsys, topology="")
    report = json.loads(text)
    assert status == 0 and report["target"] == "cpu" and report["devices"] == 8
    assert report["memory"]["peak"] > 3 * report["memory"]["parameters"]


@pytest.mark.slow
def test_libtpu_compiles_the_real_step(capsys):
    if not importlib.util.find_spec("libtpu"):
        pytest.skip(f"needs libtpu: pip install 'jax[tpu]=={jax.__version__}'")
    status, text = run(capsys, topology="v5e:2x2")
    report = json.loads(text)
    assert status == 0 and report["dtype"] == "bfloat16" and report["devices"] == 4
    memory = report["memory"]
    assert memory["peak"] > memory["parameters"] + memory["optimizer"] + memory["averages"]
    assert memory["peak"] < 2**30
