import jax
import jax.numpy as jnp

from effdet_jax.distributed.mesh import create_mesh
from effdet_jax.model.detector import Detector
from effdet_jax.run.banner import banner_lines
from effdet_jax.run.schedule import Schedule
from tests.doubles import Images
from tests.tiny import tiny_spec


def lines(batch_size, microbatches=1, **mesh):
    source = Images(100)
    return banner_lines(
        source,
        source,
        create_mesh(batch_size, microbatches=microbatches, **mesh),
        Detector(tiny_spec(num_classes=1), source.class_names, jnp.bfloat16),
        Schedule.from_epochs(100, batch_size, num_epochs=3.0),
        batch_size=batch_size,
        microbatches=microbatches,
        peak_learning_rate=0.02,
    )


def test_every_part_of_a_run_has_its_line():
    text = lines(16, fsdp=2)
    assert [line[:11].strip() for line in text] == [
        "devices",
        "train",
        "val",
        "classes",
        "model",
        "batch",
    ]
    assert text[0].endswith(f"8 × {jax.devices()[0].device_kind}, mesh data 4 × fsdp 2 × spatial 1")
    assert text[3].endswith("1: cat (ids 7 … 7)")
    assert "efficientdet-lite0 at 64×64, " in text[4] and text[4].endswith("in bfloat16")
    # 100 / 16 = 6.25 steps per epoch, 18 of them in three epochs; 16 / 8 images per device.
    expected = "16 = 2 per device; 18 steps = 2.9 epochs of 6.2 steps; peak learning rate 0.02"
    assert text[5].endswith(expected)


def test_what_a_device_computes_at_a_time():
    # 32 images over 4 devices (2 × 4 // 2) in two parts, each image over two devices.
    assert "32 = 2 × 4 / 2 per device" in lines(32, microbatches=2, spatial=2)[-1]
