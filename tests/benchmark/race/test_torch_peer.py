import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs effdet_jax[peers]")
pytest.importorskip("effdet", reason="needs effdet_jax[peers]", exc_type=ImportError)

from effdet_jax.benchmark.race import torch_peer
from effdet_jax.benchmark.race.case import INPUTS, WEIGHTS, Case, by_anchor

CASE = Case("postprocess", "d0", 1, (128, 128))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("inputs")
    torch_peer.write_inputs(CASE, path, onnx=False)
    return path


def test_calibrated_statistics_are_those_of_the_images():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2)).eval()
    images = 3 + 2 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch_peer._calibrate(model, images)
    before = model[0](images)
    torch.testing.assert_close(model[1].running_mean, before.mean((0, 2, 3)))
    assert model[1].momentum == 0.1 and not model.training


def test_levels_are_cut_out_in_the_order_they_are_joined(folder):
    config = torch_peer.network(CASE).config
    flat = np.load(folder / INPUTS)["logits"]
    levels = torch_peer._levels(flat, config)
    assert [level.shape[2] for level in levels] == [16, 8, 4, 2, 1]
    np.testing.assert_array_equal(by_anchor(torch_peer._rows_first(levels), 90), flat)


def test_all_contestants_get_the_same_arrays(folder):
    arrays = np.load(folder / INPUTS)
    assert arrays["images"].shape == (1, 128, 128, 3) and arrays["images"].dtype == np.uint8
    assert arrays["photos"].shape == (1, 480, 640, 3)
    heights, widths = np.moveaxis(arrays["boxes"][..., 2:] - arrays["boxes"][..., :2], -1, 0)
    assert (heights >= 30).all() and (widths >= 30).all()
    assert (folder / WEIGHTS).stat().st_size > 4 * 3_800_000


def test_memory_formats_compute_the_same(folder):
    case = Case("forward", "d0", 1, (128, 128))
    results = [
        torch_peer.prepare(name, case, folder)[1] for name in ("PyTorch", "PyTorch channels-last")
    ]
    np.testing.assert_allclose(results[0], results[1], atol=1e-4 * np.abs(results[0]).max())
