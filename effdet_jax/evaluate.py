"""COCO metrics of a checkpoint on a data set, and what lies behind them.

python -m effdet_jax.evaluate --checkpoint=runs/shapes --output=evaluated
python -m effdet_jax.evaluate --curve=runs/a,runs/b --output=compare.html  # Runs beside each other.

The data is the validation split the run was configured with, unless --config names another.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from effdet_jax import config as configs
from effdet_jax.checkpoint import CheckpointError, find_checkpoint
from effdet_jax.cli import define_config_flag, define_process_flags, define_tta_flags, run
from effdet_jax.data.example import DataError, Source
from effdet_jax.data.relabel import match_classes
from effdet_jax.data.subset import spread
from effdet_jax.detection.objective import Objective, format_loss
from effdet_jax.distributed.mesh import create_mesh
from effdet_jax.distributed.processes import connected
from effdet_jax.evaluation.diagnosis import (
    NUM_TRAIN_IMAGES,
    Circumstances,
    diagnose,
)
from effdet_jax.evaluation.evaluation import Evaluation
from effdet_jax.evaluation.output import check_output, write_output
from effdet_jax.experiment import Experiment
from effdet_jax.inference.load import load
from effdet_jax.inference.tta import TTA
from effdet_jax.model.detector import Detector
from effdet_jax.report.compare_page import write_compare_page
from effdet_jax.report.run_page import RunPage
from effdet_jax.run.memory import memory_explained
from effdet_jax.run.recipes import nearest_recipe


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": define_config_flag(required=False),
        "checkpoint": flags.DEFINE_string("checkpoint", "", "workdir, converted folder or weights"),
        "curve": flags.DEFINE_list(
            "curve", [], "workdirs to lay beside each other on a page; nothing is evaluated"
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
        **define_tta_flags(),
        "output": flags.DEFINE_string(
            "output",
            "",
            "folder to write; a NAME.json for COCO's result rows alone; with --curve a NAME.html",
        ),
        **define_process_flags(),
    }


def main(
    config: ConfigDict | None,
    checkpoint: str,
    curve: Sequence[str],
    data_dir: str,
    split: str,
    protocol: str | None,
    nms: str | None,
    dtype: str | None,
    batch_size: int,
    tta: str,
    fusion: str | None,
    output: str,
    **processes: Any,
) -> int:
    if curve:
        return compare(curve, output)
    check_flags(checkpoint, output)
    views = TTA.parse(tta, fusion)
    with connected(**processes):
        model, variables = load(checkpoint, dtype=dtype)
        config = config or stored_config(checkpoint, data_dir)
        set_options(config, data_dir, protocol, nms, batch_size)

        experiment = Experiment.from_config(config)
        source = open_split(experiment, split, model)
        print("data       " + "\n           ".join(source.report.lines()), flush=True)
        result = measure(experiment, model, jax.device_get(variables), source, split, views)
        if output and jax.process_index() == 0:
            write_files(output, experiment, source, split, checkpoint, result)
        return 0


def measure(
    experiment: Experiment,
    model: Detector,
    variables: Any,
    source: Source,
    split: str,
    views: TTA | None,
) -> Evaluation:
    """Evaluates on `source`, the images of `split`, and prints what comes of it."""
    mesh, objective = create_mesh(jax.device_count()), loss_of_run(experiment, model)
    if views:
        print("tta        " + views.line(model.spec), flush=True)
    evaluator = experiment.create_evaluator(model, source, mesh, objective, views)
    smaller = f"--batch_size={max(experiment.asked.eval.batch_size // 2, 1)} takes about half"
    with memory_explained(lambda: [smaller]):
        result = evaluator(variables)
    print("\n".join(result_lines(result)))
    if result.is_low(0.0):
        print("\n".join(why_so_low(experiment, evaluator, variables, result, source, split)))
    return result


def check_flags(checkpoint: str, output: str):
    """Before anything is loaded.

    Raises:
      ConfigError: nothing is named to be evaluated.
      DestinationError: `output` can't be written.
    """
    if not checkpoint:
        raise configs.ConfigError("name what to evaluate: --checkpoint=runs/mine")
    check_output(output)


def set_options(
    config: ConfigDict, data_dir: str, protocol: str | None, nms: str | None, batch_size: int
):
    """Puts what flags say in the place of the config's."""
    config.eval.batch_size = batch_size or 8 * jax.device_count()
    if data_dir:
        config.data.dir = data_dir
    if protocol:
        configs.set_protocol(config, protocol)
    if nms:
        config.eval.method = nms


def compare(folders: Sequence[str], output: str) -> int:
    """Writes the page of several runs."""
    if not output.endswith(".html"):
        raise configs.ConfigError(
            f"--curve={','.join(folders)} needs a page to write: --output=compare.html"
        )
    write_compare_page(output, folders)
    print(f"wrote {output}")
    return 0


def write_files(
    output: str,
    experiment: Experiment,
    source: Source,
    split: str,
    checkpoint: str,
    result: Evaluation,
):
    """Writes an evaluation, and into a folder its page, too, which has the curves of the training if
    they are beside the checkpoint."""
    write_output(output, result)
    if output.endswith(".json"):
        return
    path = os.path.join(output, "report.html")
    recipe = nearest_recipe(configs.plain(experiment.asked))
    page = RunPage(path, checkpoint, source, {split: source}, *recipe, run=checkpoint)
    if page.write(0, result):
        print(f"wrote {path}")


def open_split(experiment: Experiment, split: str, model: Detector) -> Source:
    """The data to evaluate on, with the labels that a model predicts.

    Raises:
      DataError: there is no such split, or it has classes that the model hasn't.
    """
    source = experiment.open_source(split, intensity=model.spec.intensity)
    if source is None:
        raise DataError(
            f"the data has no {split} split, and --config.data.val_fraction=0 draws none; all its "
            "images: --split=train"
        )
    return match_classes(source, model.class_names)


def loss_of_run(experiment: Experiment, model: Detector) -> Objective | None:
    """What the run minimised; None, and a line why, where its class weights can't be known."""
    loss = experiment.asked.loss
    if not experiment.asked.eval.loss:
        return None
    try:
        if not loss.class_weights or experiment.class_names == model.class_names:
            return experiment.create_objective(model.spec)
        why = "are of other classes than the model's"
    except DataError as error:
        why = f"need the training data: {error}"
    print(f"no loss    the weights of --config.loss.class_weights={loss.class_weights} {why}")
    return None


def result_lines(result: Evaluation) -> list[str]:
    """To print: images that couldn't be read, counts, loss, metrics, classes."""
    loss = f", loss {format_loss(result.loss)}" if result.loss else ""
    return [
        *result.warnings,
        f"{result.num_images} images, {len(result.results)} {result.unit}{loss}",
        *result.lines(),
    ]


def why_so_low(
    experiment: Experiment,
    evaluator: Callable[..., Evaluation],
    variables: Any,
    result: Evaluation,
    source: Source,
    split: str,
) -> list[str]:
    """The lines of `diagnose` for a result on `split`; looks at training images, too, where it can."""
    train = None
    if split != "train":
        with contextlib.suppress(DataError):  # They needn't be here.
            train_source = match_classes(experiment.train_source, source.class_names)
            train = evaluator(variables, spread(train_source, NUM_TRAIN_IMAGES))
    known = Circumstances(score_threshold=experiment.detect_options["score_threshold"])
    return diagnose(result, source, known, train)


def stored_config(checkpoint: str, data_dir: str = "") -> ConfigDict:
    """The configuration that a checkpoint was trained with.

    Args:
      data_dir: another data folder than the run's.

    Raises:
      ConfigError: it is no training run; the message says what to type.
      DataError: its data folder isn't there, and no other is given.
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
    config = configs.from_plain(stored)
    folder = config.data.dir
    if folder and not data_dir and not os.path.exists(os.path.expanduser(folder)):
        raise DataError(
            f"the run's data folder '{folder}' isn't there, seen from {os.getcwd()}: "
            "--data_dir=FOLDER"
        )
    return config


if __name__ == "__main__":
    run(main, define_flags)
