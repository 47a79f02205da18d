import importlib.util
import os
import subprocess
import sys

import pytest

from effdet_jax.libtpu import WITHOUT_TPU, silence_libtpu
from tests.conftest import ROOT


def device_files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(folder)


def test_without_a_tpu_libtpu_is_told_so(tmp_path):
    # A GPU's files, and the one of vfio that is there without any device.
    devices = device_files(tmp_path, "nvidia0", "nvidiactl", "kfd", "dri/card0", "vfio/vfio")
    environ = {"HOME": "/root", "TPU_SKIP_MDS_QUERY": "1"}  # The last one jax sets itself.
    assert silence_libtpu(None, environ, devices=devices)
    assert environ == {"HOME": "/root", **WITHOUT_TPU}
    assert "JAX_PLATFORMS" not in environ  # A GPU is found as ever.


@pytest.mark.parametrize("name", ["accel0", "accel3", "vfio/0", "vfio/devices/vfio0"])
def test_nothing_is_changed_beside_a_tpu(tmp_path, name):
    environ = {}
    assert not silence_libtpu(None, environ, devices=device_files(tmp_path, name, "vfio/vfio"))
    assert environ == {}


@pytest.mark.parametrize(
    "environ",
    [
        {"TPU_WORKER_HOSTNAMES": "host-0,host-1"},
        {"TPU_ACCELERATOR_TYPE": "v6e-8"},
        {"TPU_STDERR_LOG_LEVEL": "0"},
        {"JAX_FORCE_TPU_INIT": "1"},
    ],
)
def test_nothing_is_changed_where_a_tpu_is_described(tmp_path, environ):
    before = dict(environ)
    assert not silence_libtpu(None, environ, devices=str(tmp_path)) and environ == before


def test_nothing_is_changed_where_a_platform_is_chosen(tmp_path):
    environ = {}
    assert not silence_libtpu("tpu,cpu", environ, devices=str(tmp_path)) and environ == {}


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu: jax[tpu]")
def test_a_command_says_nothing_of_tpus():
    environment = {k: v for k, v in os.environ.items() if "TPU" not in k and "JAX" not in k}
    done = subprocess.run(
        [sys.executable, "-m", "effdet_jax.summary", "--config=configs/lite0.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr, done.stderr
