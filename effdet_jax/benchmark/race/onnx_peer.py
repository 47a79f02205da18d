"""ONNX Runtime as a contestant, on the network that PyTorch exported."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from effdet_jax.benchmark.race.case import INPUTS, ONNX, Case, as_result


def prepare(name: str, case: Case, folder: pathlib.Path) -> tuple[Callable[[], Any], np.ndarray]:
    """See `runner.contestant_module`; `case` is a forward pass."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    session = onnxruntime.InferenceSession(folder / ONNX, options, ["CPUExecutionProvider"])
    images = np.load(folder / INPUTS)["normal"].transpose(0, 3, 1, 2)
    feed = {session.get_inputs()[0].name: np.ascontiguousarray(images)}

    def call():
        return session.run(None, feed)

    outputs = [x.transpose(0, 2, 3, 1) for x in call()]
    levels = len(outputs) // 2
    return call, as_result(outputs[:levels], outputs[levels:])
