"""Orbax checkpoints: a pytree and what it means (spec, classes, config), exact and atomic."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util
from jax.typing import DTypeLike
from orbax.checkpoint import v1 as ocp

from effdet_jax.classes import ClassNames
from effdet_jax.errors import UserError
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import abstract_variables
from effdet_jax.spec import ModelSpec

# Folders of a workdir. 'best' is preferred for inference, 'last' is what training resumes from.
LAST, BEST = "checkpoints/last", "checkpoints/best"
# Among the metrics of an evaluation: the score threshold with the best F1.
THRESHOLD = "eval/score_threshold"


class CheckpointError(UserError):
    """No checkpoint, another model's, or a broken one; the message says which and what to do."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a checkpoint says about itself.

    Attributes:
      spec: the model.
      class_names: its classes.
      config: the training configuration, plain JSON types.
      step: steps done.
      metrics: of the newest evaluation up to that step, empty if there was none.
      dtype: that evaluations computed in, 'float32' or 'bfloat16'.
    """

    spec: ModelSpec
    class_names: ClassNames
    config: Mapping[str, Any]
    step: int = 0
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"

    @property
    def score_threshold(self) -> float | None:
        """Of that evaluation, the one with the best F1; None if it found nothing, or wasn't looked for."""
        return self.metrics.get(THRESHOLD)

    def to_dict(self) -> dict[str, Any]:
        return {
            "spec": self.spec.to_dict(),
            "labels": self.class_names.to_dict(),
            "config": dict(self.config),
            "step": self.step,
            "metrics": dict(self.metrics),
            "dtype": self.dtype,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Metadata":
        return cls(
            ModelSpec.from_dict(fields["spec"]),
            ClassNames.from_dict(fields["labels"]),
            fields["config"],
            fields["step"],
            fields["metrics"],
            fields.get("dtype", "float32"),  # Version 0.1 doesn't say, and evaluated so.
        )

    def difference(self, other: "Metadata") -> str:
        """What keeps a run from going on with `other`'s checkpoint; empty if nothing does."""
        differing = [
            f"{field.name} is {ours} against {theirs}"
            for field in dataclasses.fields(ModelSpec)
            if (ours := getattr(self.spec, field.name))
            != (theirs := getattr(other.spec, field.name))
        ]
        return "; ".join(filter(None, [self.class_names.difference(other.class_names), *differing]))


class Checkpoints:
    """A folder of checkpoints, written asynchronously; unfinished ones are never seen.

    A checkpoint holds `train` (all that training needs beside the averages), `ema` (the averaged
    variables, all that inference needs) and `metadata`.

    Args:
      folder: made on the first save.
      keep: how many of the latest to keep.
      read_only: leaves alone what another process may be writing there now.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 1, *, read_only: bool = False):
        self.folder = epath.Path(folder).expanduser().absolute()
        policies = ocp.training.preservation_policies
        # Cleaning runs in a thread that a process mustn't end before: only where there is need.
        unfinished = self.folder.is_dir() and any(
            child.name.endswith("-tmp") for child in self.folder.iterdir()
        )
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            preservation_policy=policies.LatestN(keep),
            cleanup_tmp_directories=unfinished and not read_only,
        )

    @property
    def workdir(self) -> str:
        """Of the run, where this is one of its folders; else the folder itself."""
        path = str(self.folder)
        return path.removesuffix(f"/{LAST}").removesuffix(f"/{BEST}")

    @property
    def latest_step(self) -> int | None:
        """Step of the newest finished checkpoint, None if there is none."""
        latest = self._checkpointer.latest
        return latest and latest.step

    def save(self, metadata: Metadata, train: Any, ema: Any):
        """Starts writing; returns as soon as the arrays are copied. One that exists is replaced."""
        with self._full_disk_explained():
            self._checkpointer.save_checkpointables_async(
                metadata.step,
                {"train": train, "ema": ema, "metadata": metadata.to_dict()},
                force=True,
                overwrite=True,
            )

    @property
    def steps(self) -> list[int]:
        """Of all finished checkpoints, ascending; waits for the one that is being written."""
        with self._full_disk_explained():
            self._checkpointer.wait()
        if not self.folder.is_dir():
            return []
        return sorted(int(child.name) for child in self.folder.iterdir() if child.name.isdigit())

    def delete(self, steps: Sequence[int]):
        """Deletes the checkpoints of these steps; of several processes one does, and none saves on."""
        for step in steps:
            (self.folder / str(step)).rmtree()

    def metadata(self) -> Metadata:
        """Of the newest checkpoint."""
        return Metadata.from_dict(self._restore({"metadata": None})["metadata"])

    def restore(self, step: int | None = None, /, **abstract: Any) -> dict[str, Any]:
        """Named parts ('train', 'ema') of a checkpoint.

        Args:
          step: of the checkpoint, one of `steps`; the newest if not given.
          **abstract: a pytree of `jax.ShapeDtypeStruct` with shardings, per part.
        """
        return self._restore(abstract, step)

    def _restore(self, abstract: Mapping[str, Any], step: int | None = None) -> dict[str, Any]:
        try:
            return self._checkpointer.load_checkpointables(
                step, abstract_checkpointables=dict(abstract)
            )
        except (FileNotFoundError, KeyError, ValueError) as error:
            reason = str(error)  # Orbax adds both trees, a hundred thousand letters.
            reason = reason if len(reason) < 300 else f"{reason[:300].splitlines()[0]} …"
            raise CheckpointError(
                f"can't read the checkpoint in '{self.folder}': {reason}"
            ) from error

    def close(self):
        """Waits until everything is written."""
        with self._full_disk_explained():
            self._checkpointer.close()

    @contextlib.contextmanager
    def _full_disk_explained(self) -> Iterator[None]:
        """Within it, a disk that is full is a `CheckpointError`, whatever wraps it."""
        try:
            yield
        except Exception as error:
            if not any("No space left" in str(cause) for cause in _causes(error)):
                raise
            free = shutil.disk_usage(self.folder.parent).free / 2**20
            raise CheckpointError(
                f"no space left for a checkpoint in '{self.folder}': {free:.0f} MB are free. Make "
                "room, then the same command goes on from the last one that was written"
            ) from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and what is in a group of errors."""
    while error is not None:
        yield error
        for other in getattr(error, "exceptions", ()):
            yield from _causes(other)
        error = error.__cause__ or error.__context__


def find_checkpoint(path: str | os.PathLike) -> Checkpoints:
    """The checkpoints to use for inference: a workdir's best, else its last, or a folder itself.

    Raises:
      CheckpointError: there is none; the message says where it was looked for.
    """
    path = epath.Path(path).expanduser().absolute()
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint '{path}': no such file or folder")
    for folder in (path / BEST, path / LAST, path):
        if folder.is_dir() and any(child.name.isdigit() for child in folder.iterdir()):
            return Checkpoints(folder, read_only=True)
    raise CheckpointError(
        f"'{path}' holds no checkpoint: neither {BEST}, nor {LAST}, nor numbered steps. Give the "
        "--workdir of a training run"
    )


def is_checkpoint(path: str | os.PathLike) -> bool:
    """Whether `find_checkpoint` finds one."""
    try:
        find_checkpoint(path).close()
    except CheckpointError:
        return False
    return True


def restore_model(
    path: str | os.PathLike, *, dtype: DTypeLike | None = None
) -> tuple[Detector, dict[str, Any]]:
    """A trained detector and its averaged variables, on the default device.

    Args:
      path: a workdir, or a folder of checkpoints.
      dtype: of the computation; that of the run's own evaluations if not given.

    Raises:
      CheckpointError: there is no checkpoint, or it can't be read.
    """
    checkpoints = find_checkpoint(path)
    metadata = checkpoints.metadata()
    dtype = jnp.dtype(metadata.dtype if dtype is None else dtype)
    threshold = metadata.score_threshold
    model = Detector(metadata.spec, metadata.class_names, dtype, score_threshold=threshold)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = abstract_arrays(abstract_variables(model), sharding)
    variables = checkpoints.restore(ema=abstract)["ema"]
    checkpoints.close()
    return model, variables


def abstract_arrays(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """The same shapes and dtypes, to be placed as `sharding` says."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What became of each tensor when a model started from another's weights."""

    loaded: tuple[str, ...]
    reinitialised: tuple[str, ...]
    unused: tuple[str, ...]

    def lines(self) -> list[str]:
        """For the banner."""
        total = len(self.loaded) + len(self.reinitialised)
        lines = [f"loaded {len(self.loaded)} of {total} tensors"]
        for what, names in (("re-initialised", self.reinitialised), ("unused", self.unused)):
            shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
            lines.append(f"{what} {len(names)}" + (f": {shown}" if names else ""))
        return lines


def merge_variables(
    fresh: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], LoadReport]:
    """`fresh` with every tensor that `given` has in the same shape, and the report of it.

    Raises:
      CheckpointError: not one tensor fits, so these are weights of something else.
    """
    fresh_flat = traverse_util.flatten_dict(dict(fresh), sep="/")
    given_flat = traverse_util.flatten_dict(dict(given), sep="/")
    merged, loaded, reinitialised = {}, [], []
    for path, array in fresh_flat.items():
        other = given_flat.get(path)
        fits = other is not None and other.shape == array.shape
        merged[path] = np.asarray(other, np.float32) if fits else array
        if fits:
            loaded.append(path)
        else:
            was = f" {tuple(other.shape)} → {tuple(array.shape)}" if other is not None else ""
            reinitialised.append(path + was)
    if not loaded:
        raise CheckpointError("none of the given tensors fits this model: another architecture")
    unused = tuple(path for path in given_flat if path not in fresh_flat)
    report = LoadReport(tuple(loaded), tuple(reinitialised), unused)
    return traverse_util.unflatten_dict(merged, sep="/"), report
