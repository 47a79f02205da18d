"""Moves a detector between programs and proves that nothing changed.

python -m effdet_jax.convert SOURCE DESTINATION

SOURCE is google/automl's checkpoint, PyTorch effdet's `.pth` or `.safetensors`, a Keras `.h5`, a
workdir of a training run or a folder this command wrote. DESTINATION is a folder for `ed.load`, or
a file: `.safetensors` for effdet or, of its models, torchvision, `.npz` with google/automl's names.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from effdet_jax.checkpoint import THRESHOLD, find_checkpoint, is_checkpoint, restore_model
from effdet_jax.classes import COCO, ClassNames
from effdet_jax.cli import run
from effdet_jax.config import parse_size
from effdet_jax.convert.classifiers import read_model
from effdet_jax.convert.detectors import (
    changed_spec,
    fresh_class_head,
    pytorch_kind,
)
from effdet_jax.convert.folder import folder_notes, is_folder, read_folder, write_folder
from effdet_jax.convert.readers import read_weights
from effdet_jax.convert.rules import ConversionError, flatten
from effdet_jax.convert.verify import (
    compare,
    compare_detections,
    live_reference,
    recorded_reference,
    run_layers,
    table,
)
from effdet_jax.convert.write import (
    check_equal,
    destination_kind,
    tensors_for,
    write_manifest,
    write_tensors,
)
from effdet_jax.files import put_in_place
from effdet_jax.spec import ADVPROP, ModelSpec


def define_flags() -> dict[str, flags.FlagHolder]:
    text, boolean = flags.DEFINE_string, flags.DEFINE_bool
    return {
        "model": text("model", "", "which model it is, where that isn't plain: efficientdet-d7"),
        "image_size": text("image_size", "", "'640' or '384x640', if not the model's own"),
        "advprop": boolean("advprop", False, "an AdvProp checkpoint: input from -1 to 1"),
        "raw": boolean("raw", False, "the variables themselves, not their moving averages"),
        "num_classes": flags.DEFINE_integer(
            "num_classes", 0, "classes of the head, if not 90", lower_bound=0
        ),
        "drop_head": boolean("drop_head", False, "a new class head of --num_classes"),
        "class_names": flags.DEFINE_list("class_names", [], "names of the classes, in order"),
        "to": flags.DEFINE_enum(
            "to",
            "",
            ["", "folder", "effdet", "torchvision", "automl"],
            "form, if not plain from DESTINATION",
        ),
        "verify": boolean(
            "verify", False, "compare with PyTorch's effdet or torchvision, run here"
        ),
        "reference": text("reference", "", "compare with recorded activations: an .npz"),
        "overwrite": boolean("overwrite", False, "replace DESTINATION"),
    }


@dataclasses.dataclass(frozen=True)
class _Source:
    """A detector on its way; `classes_known` if it says itself what its classes are."""

    spec: ModelSpec
    class_names: ClassNames
    classes_known: bool
    variables: Mapping[str, Any]
    origin: str
    metrics: Mapping[str, float]
    notes: Sequence[str]


def main(
    paths: Sequence[str],
    *,
    model: str,
    image_size: str,
    advprop: bool,
    raw: bool,
    num_classes: int,
    drop_head: bool,
    class_names: Sequence[str],
    to: str,
    verify: bool,
    reference: str,
    overwrite: bool,
) -> int:
    if len(paths) != 2:
        raise ConversionError(
            f"{len(paths)} paths given: python -m effdet_jax.convert SOURCE DESTINATION"
        )
    path, destination = paths
    kind = destination_kind(destination, to)
    changes = {"image_size": parse_size(image_size)} if image_size else {}
    changes |= ADVPROP if advprop else {}
    source = _read(path, model, raw, changes)
    if kind == "effdet" and not to:
        kind = pytorch_kind(source.spec)
    source = _with_class_head(source, num_classes or len(class_names), drop_head)
    if class_names:
        source = _with_class_names(source, class_names)
    print(f"source     {path}: " + "\n           ".join([*source.notes]))
    height, width = source.spec.image_size
    print(f"model      {source.spec.name} at {height}×{width}, {len(source.class_names)} classes")
    print(f"padding    {source.spec.padding}, epsilon {source.spec.backbone_epsilon:g}")
    count = _write(destination, kind, source, overwrite=overwrite)
    print(f"written    {destination}: {count} tensors, read back and bit-equal", flush=True)
    return _verify(source, reference, raw) if verify or reference else 0


def _read(path: str, model: str, raw: bool, changes: Mapping[str, Any]) -> _Source:
    """The detector at `path`; `changes` are `ModelSpec` fields that it doesn't know of itself."""
    if not is_folder(path) and not is_checkpoint(path):
        return _read_weights(path, model, raw, changes)
    source = _read_folder(path) if is_folder(path) else _read_checkpoint(path)
    if unused := [name for name, value in (("model", model), ("raw", raw)) if value]:
        raise ConversionError(f"'{path}' knows its model: --{unused[0]} says nothing here")
    return dataclasses.replace(source, spec=changed_spec(source.spec, **changes))


def _read_folder(path: str) -> _Source:
    spec, class_names, variables = read_folder(path)
    origin, metrics = folder_notes(path)
    notes = [f"a folder of effdet_jax. {origin}"]
    return _Source(spec, class_names, True, variables, origin, metrics, notes)


def _read_checkpoint(path: str) -> _Source:
    checkpoints = find_checkpoint(path)
    metadata = checkpoints.metadata()
    checkpoints.close()
    _, variables = restore_model(path)
    data = metadata.config.get("data", {})
    trained_on = data.get("dir") or data.get("source", "")
    origin = (
        f"Trained by effdet_jax for {metadata.step} steps on "
        f"'{os.path.basename(os.path.normpath(str(trained_on)))}'; moving averages."
    )
    notes = [f"a training run of effdet_jax, step {metadata.step}, moving averages"]
    return _Source(
        metadata.spec, metadata.class_names, True, variables, origin, metadata.metrics, notes
    )


def _read_weights(path: str, model: str, raw: bool, changes: Mapping[str, Any]) -> _Source:
    weights = read_weights(path, raw=raw)
    spec, variables = read_model(weights, model, **changes)
    count = len(weights.tensors) + (0 if spec.pyramid_cells else len(weights.classifier))
    notes = [f"{weights.kind}, {count} tensors, all of them used", *weights.notes]
    if not spec.pyramid_cells:  # Nothing is left out of a classifier.
        notes = [note for note in notes if "ImageNet classifier" not in note]
    origin = f"Converted from '{os.path.basename(path)}' ({weights.kind} weights)."
    for note in weights.notes:
        if "moving averages" in note:
            origin += f" {note.split(' (')[0].capitalize()}."
    class_names = weights.class_names or ClassNames.numbered(spec.num_classes)
    known = weights.class_names is not None or class_names == COCO
    threshold = weights.score_threshold
    metrics = {} if threshold is None else {THRESHOLD: threshold}
    return _Source(spec, class_names, known, variables, origin, metrics, notes)


def _with_class_head(source: _Source, asked: int, drop_head: bool) -> _Source:
    """The source with a class head of as many classes as `asked` for, if not 0.

    Raises:
      ConversionError: the head has other classes than was asked for, or is unlike the released ones
        and nothing was asked for.
    """
    found, wanted = source.spec.num_classes, asked or len(COCO)
    if drop_head and not asked:
        raise ConversionError("--drop_head needs the new head's --num_classes")
    if drop_head:
        spec = dataclasses.replace(source.spec, num_classes=wanted)
        return dataclasses.replace(
            source,
            spec=spec,
            class_names=ClassNames.numbered(wanted),
            variables=fresh_class_head(source.variables, spec),
            origin=f"{source.origin} Class head new, for {wanted} classes: to be trained.",
            metrics={},
            notes=[*source.notes, f"class head of {found} classes dropped, a new one of {wanted}"],
        )
    if (asked or not source.classes_known) and found != wanted:
        raise ConversionError(
            f"the class head has {found} classes, not {wanted}: say --num_classes={found} to keep "
            "it, or --drop_head --num_classes=… for a new one"
        )
    return source


def _with_class_names(source: _Source, class_names: Sequence[str]) -> _Source:
    try:
        known = ClassNames.from_names(class_names)
    except ValueError as error:
        raise ConversionError(f"--class_names: {error}") from error
    if len(known) != source.spec.num_classes:
        raise ConversionError(
            f"--class_names has {len(class_names)} names for {source.spec.num_classes} classes"
        )
    return dataclasses.replace(source, class_names=known, classes_known=True)


def _write(destination: str, kind: str, source: _Source, *, overwrite: bool) -> int:
    """Writes the destination, and a manifest beside google/automl's; the number of tensors."""
    with put_in_place(destination, overwrite=overwrite) as aside:
        if kind == "folder":
            return _write_folder(aside, source)
        known = source.class_names if source.classes_known else None
        threshold = source.metrics.get(THRESHOLD)
        count = write_tensors(aside, kind, source.spec, source.variables, known, threshold)
        if kind == "automl":
            tensors = tensors_for(kind, source.spec, source.variables)
            with put_in_place(f"{destination}.json", overwrite=overwrite) as manifest:
                write_manifest(manifest, source.spec, tensors)
    return count


def _write_folder(path: str, source: _Source) -> int:
    os.mkdir(path)
    write_folder(
        path,
        source.spec,
        source.class_names,
        source.variables,
        origin=source.origin,
        metrics=source.metrics,
    )
    _, _, again = read_folder(path)
    check_equal(flatten(source.variables), flatten(again), path)
    return len(flatten(again))


def _verify(source: _Source, path: str, raw: bool) -> int:
    """Prints the parity table; 1 if a layer differs."""
    if path:
        reference = recorded_reference(path, source.spec, raw=raw)
    else:
        side = 2**source.spec.max_level
        reference = live_reference(source.spec, source.variables, (side, side))
    layers = run_layers(source.spec, source.variables, reference.images)
    rows = compare(layers, reference)
    if not rows:
        raise ConversionError(f"'{path}' has no layer of this model")
    print(f"parity     with {reference.name}, {len(rows)} layers, input {reference.images.shape}")
    print(table(rows))
    differing = [row.layer for row in rows if not row.equal]
    if all(f"box P{level}" in reference.layers for level in source.spec.levels):
        equal, total, distance = compare_detections(source.spec, layers, reference)
        print(f"detections {equal} of {total} equal, boxes within {distance:.2g} px")
        differing += ["detections"] * (equal != total)
    print("result     " + (f"DIFFERS: {', '.join(differing)}" if differing else "equal"))
    return 1 if differing else 0


if __name__ == "__main__":
    run(main, define_flags, arguments="paths")
