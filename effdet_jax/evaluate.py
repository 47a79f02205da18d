"""COCO metrics of a checkpoint on a data set.

python -m effdet_jax.evaluate --checkpoint=runs/shapes

The data is the validation split the run was configured with, unless --config names another.
"""

from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from effdet_jax import config as configs
from effdet_jax.checkpoint import CheckpointError, find_checkpoint
from effdet_jax.cli import define_config_flag, define_process_flags, run
from effdet_jax.data.example import DataError
from effdet_jax.distributed.mesh import create_mesh
from effdet_jax.distributed.processes import connected
from effdet_jax.evaluation.coco import write_results
from effdet_jax.experiment import Experiment
from effdet_jax.inference.load import load


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": define_config_flag(required=False),
        "checkpoint": flags.DEFINE_string(
            "checkpoint", None, "workdir, converted folder or weights", required=True
        ),
        "data_dir": flags.DEFINE_string("data_dir", "", "another data folder than the run's"),
        "split": flags.DEFINE_enum("split", "val", ["val", "train"], "which images"),
        "protocol": flags.DEFINE_enum(
            "protocol",
            None,
            list(configs.PROTOCOLS),
            "'published' is soft-NMS with its constants, behind the published AP; 'default' is "
            "hard NMS; the run's if not given",
        ),
        "nms": flags.DEFINE_enum(
            "nms", None, ["hard", "gaussian"], "another NMS than the protocol's"
        ),
        "dtype": flags.DEFINE_enum(
            "dtype", None, ["float32", "bfloat16"], "of the computation; the run's if not given"
        ),
        "batch_size": flags.DEFINE_integer(
            "batch_size", 0, "of all devices; 0 is 8 per device", lower_bound=0
        ),
        "output": flags.DEFINE_string("output", "", "COCO results JSON to write"),
        **define_process_flags(),
    }


def main(
    config: ConfigDict | None,
    checkpoint: str,
    data_dir: str,
    split: str,
    protocol: str | None,
    nms: str | None,
    dtype: str | None,
    batch_size: int,
    output: str,
    **processes: Any,
) -> int:
    with connected(**processes):
        model, variables = load(checkpoint, dtype=dtype)
        config = config or stored_config(checkpoint)
        if data_dir:
            config.data.dir = data_dir
        if protocol:
            configs.set_protocol(config, protocol)
        if nms:
            config.eval.method = nms
        config.eval.batch_size = batch_size or 8 * jax.device_count()

        experiment = Experiment.from_config(config)
        source = experiment.open_source(split, intensity=model.spec.intensity)
        if different := model.class_names.difference(source.class_names):
            raise DataError(f"the checkpoint and the data differ in their classes: {different}")
        print("data       " + "\n           ".join(source.report.lines()), flush=True)

        evaluator = experiment.create_evaluator(model, source, create_mesh(jax.device_count()))
        result = evaluator(jax.device_get(variables))
        for image in result.unreadable:
            print(f"warning: {image} can't be read and counts as without detections")
        print(f"{result.metrics.num_images} images, {len(result.results)} detections")
        print("\n".join(result.metrics.lines()))
        if output and jax.process_index() == 0:
            write_results(output, result.results)
        return 0


def stored_config(checkpoint: str) -> ConfigDict:
    """The configuration that a checkpoint was trained with.

    Raises:
      ConfigError: it is no training run; the message says what to type.
    """
    try:
        checkpoints = find_checkpoint(checkpoint)
    except CheckpointError as error:
        raise configs.ConfigError(
            f"'{checkpoint}' is no training run, so it doesn't say which data to use: "
            "--config=configs/d0.py --data_dir=FOLDER"
        ) from error
    stored = checkpoints.metadata().config
    checkpoints.close()
    return configs.from_plain(stored)


if __name__ == "__main__":
    run(main, define_flags)
