import numpy as np
import pytest

from effdet_jax.benchmark.race.case import INPUTS, ONNX, Case

onnx = pytest.importorskip("onnx", reason="needs effdet_jax[peers]")
pytest.importorskip("onnxruntime", reason="needs effdet_jax[peers]")


def test_it_runs_the_exported_network_on_the_shared_input(tmp_path):
    from effdet_jax.benchmark.race import onnx_peer

    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    names = ("classes", "boxes")  # 30 and 4 copies of the image's channels, one after the other.
    nodes = [
        make.make_node("Concat", ["image"] * copies, [name], axis=1)
        for name, copies in zip(names, (30, 4))
    ]
    image = make.make_tensor_value_info("image", kind, (1, 3, 2, 2))
    outputs = [
        make.make_tensor_value_info(name, kind, (1, channels, 2, 2))
        for name, channels in zip(names, (90, 12))
    ]
    graph = make.make_graph(nodes, "copies", [image], outputs)
    opset = make.make_opsetid("", 18)
    onnx.save(make.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / ONNX)
    images = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    np.savez(tmp_path / INPUTS, normal=images)
    case = Case("forward", "d0", 1, (2, 2))
    call, result = onnx_peer.prepare("ONNX Runtime", case, tmp_path)
    expected = [np.tile(images, copies).ravel() for copies in (30, 4)]
    np.testing.assert_array_equal(result, np.concatenate(expected))
    assert len(call()) == 2
