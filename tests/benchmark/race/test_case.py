import dataclasses
import json

import numpy as np
import pytest

from effdet_jax.benchmark.race.case import Case, as_result, by_anchor, file_stem

CASE = Case("forward", "d0", 1, (512, 512))


def test_a_title_says_all_that_differs():
    assert CASE.title == "forward d0 512 batch 1"
    other = dataclasses.replace(CASE, image_size=(384, 640), batch_size=8, dtype="bfloat16")
    assert other.title == "forward d0 384×640 batch 8 bfloat16"


def test_a_case_goes_through_json():
    assert Case.from_dict(json.loads(json.dumps(dataclasses.asdict(CASE)))) == CASE


@pytest.mark.parametrize("task", ["forward", "detect", "postprocess"])
def test_inference_on_a_cpu_keeps_freed_memory_in_huge_pages(task):
    environment = dataclasses.replace(CASE, task=task).environment
    tunables = environment.pop("GLIBC_TUNABLES").split(":")
    assert environment == {"JAX_PLATFORMS": "cpu"}
    assert set(tunables) > {"glibc.malloc.hugetlb=1", "glibc.malloc.mmap_max=0"}


def test_training_on_a_cpu_gives_back_what_compilers_took():
    environment = dataclasses.replace(CASE, task="train").environment
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"


def test_contestants_share_a_gpu():
    environment = dataclasses.replace(CASE, device="gpu").environment
    assert environment == {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def test_files_are_named_after_contestants():
    assert file_stem("PyTorch channels-last") == "PyTorch-channels-last"
    assert file_stem("effdet_jax in ../old version") == "effdet_jax-in-old-version"


def test_outputs_of_all_levels_are_one_vector_in_the_order_of_anchors():
    # Two levels of 2 and 1 cells, 3 anchors, 4 classes; boxes after classes.
    classes = [np.arange(24).reshape(1, 1, 2, 12), 24 + np.arange(12).reshape(1, 1, 1, 3, 4)]
    boxes = [100 + np.arange(24).reshape(1, 1, 2, 3, 4), 124 + np.arange(12).reshape(1, 1, 1, 12)]
    assert by_anchor(classes, 4).shape == (1, 9, 4)
    result = as_result(classes, boxes, num_classes=4)
    np.testing.assert_array_equal(result, [*range(36), *range(100, 136)])
    assert result.dtype == np.float32
