"""What libtpu, the driver and compiler of TPUs, is told on a machine without a TPU.

It comes with `jax[tpu]`, which `plan` compiles with. Wherever it is installed, jax loads it at every
start, and it then looks for a machine around it and complains in many lines that there is none.
"""

import glob
import os
from collections.abc import MutableMapping

# The description of a machine, so that libtpu asks nobody for one; it finds no chip and gives up.
WITHOUT_TPU = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
# Drivers of TPUs up to v4, and of later ones. /dev/vfio/vfio is there without any device.
_DEVICE_FILES = ("accel*", "vfio/[0-9]*", "vfio/devices/*")


def silence_libtpu(
    platforms: str | None,
    environ: MutableMapping[str, str] = os.environ,
    *,
    devices: str = "/dev",
) -> bool:
    """Sets `WITHOUT_TPU` where no TPU is; call it before jax starts its devices.

    Nothing is changed where there may be one: a device file, a platform chosen by the user or by
    jax (which chooses 'tpu' where it sees one), or any variable that describes a TPU. GPUs are
    found as ever.

    Args:
      platforms: `jax.config.jax_platforms`.
      environ: the process's environment.
      devices: folder of device files.

    Returns:
      Whether it was set.
    """
    described = any(name in environ for name in WITHOUT_TPU if name != "TPU_SKIP_MDS_QUERY")
    if platforms or described or "JAX_FORCE_TPU_INIT" in environ:
        return False
    if any(glob.glob(os.path.join(devices, pattern)) for pattern in _DEVICE_FILES):
        return False
    environ.update(WITHOUT_TPU)
    return True
