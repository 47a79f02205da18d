"""A folder of detections: rows as they come, pictures, and at the end a file in the format asked for.

What isn't listed in the folder's `written_by_predict.txt` is somebody else's and never overwritten.
"""

import contextlib
import csv
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from effdet_jax.classes import ClassNames
from effdet_jax.files import DestinationError, text_in_place
from effdet_jax.inference.render import save_mask
from effdet_jax.inference.result import Result

ROWS, WRITTEN = "detections.jsonl", "written_by_predict.txt"
CSV_COLUMNS = ("filename", "width", "height", "class", "score", "xmin", "ymin", "xmax", "ymax")
CSV_COLUMNS += ("frame", "seconds")  # Of videos; empty for images.
# Names of files may hold bytes that are no UTF-8: they go out as they came in.
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}


class OutputFolder:
    """A folder in which only what an earlier prediction wrote is overwritten.

    Args:
      path: of the folder; made with the first file.
      planned: names of the files that will be written there.
      inputs: paths that are read and so never written.

    Raises:
      DestinationError: one of the files is there and isn't listed as ours, or is an input.
    """

    def __init__(self, path: str, planned: Collection[str], inputs: Collection[str]):
        self.path = path
        self._written = written_files(path)
        if os.path.lexists(path) and not os.path.isdir(path):
            raise DestinationError(f"--output={path} is a file; give a folder")
        self._inputs = {os.path.realpath(one) for one in inputs}
        for name in planned:
            self._check(os.path.join(path, name))

    def _check(self, target: str):
        if os.path.realpath(target) in self._inputs:
            raise DestinationError(
                f"'{target}' is one of the files to look at; give another --output=FOLDER"
            )
        if os.path.lexists(target) and os.path.abspath(target) not in self._written:
            raise DestinationError(
                f"'{target}' exists and isn't in {os.path.join(self.path, WRITTEN)}, the list of "
                "what predict wrote there; give another --output=FOLDER"
            )

    def claim(self, name: str) -> str:
        """The path of a file that is to be written now; it is listed from here on.

        Raises:
          DestinationError: it is there and isn't ours, or can't be written.
        """
        path = os.path.join(self.path, name)
        self._check(path)
        with writing(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if os.path.abspath(path) not in self._written:
                self._written.add(os.path.abspath(path))
                with open(os.path.join(self.path, WRITTEN), "a", **_TEXT) as file:
                    file.write(f"{name}\n")
        return path


def written_files(folder: str) -> set[str]:
    """Absolute paths of what earlier predictions wrote into a folder, the list itself included."""
    path = os.path.join(folder, WRITTEN)
    if not os.path.isfile(path):
        return set()
    with open(path, **_TEXT) as file:
        names = [*file.read().splitlines(), WRITTEN]
    return {os.path.abspath(os.path.join(folder, name)) for name in names}


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Within it, what can't be written is a `DestinationError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise DestinationError(f"can't write '{path}': {error.strerror}") from error


class CocoFile:
    """`detections.json`: COCO's result rows with file and class names, written at the end."""

    files = ("detections.json",)
    per_image = None

    def __init__(self, folder: OutputFolder, class_names: ClassNames):
        self._folder, self._rows = folder, []

    def add(self, result: Result, name: str, when: Mapping[str, float]):
        self._rows += _coco_rows(result, when)

    def close(self) -> str:
        path = self._folder.claim(*self.files)
        with writing(path), text_in_place(path) as file:
            json.dump(self._rows, file)
        return path


class CsvFile:
    """`detections.csv`: a row per detection, corners in pixels, written as they come."""

    files = ("detections.csv",)
    per_image = None

    def __init__(self, folder: OutputFolder, class_names: ClassNames):
        self._path = folder.claim(*self.files)
        with writing(self._path), open(self._path, "w", newline="", **_TEXT) as file:
            csv.DictWriter(file, CSV_COLUMNS).writeheader()

    def add(self, result: Result, name: str, when: Mapping[str, float]):
        with writing(self._path), open(self._path, "a", newline="", **_TEXT) as file:
            csv.DictWriter(file, CSV_COLUMNS).writerows(row | when for row in result.to_rows())

    def close(self) -> str:
        return self._path


class YoloFiles:
    """`labels/NAME.txt` per image, also for one without detections, and `classes.txt`."""

    files = ("classes.txt",)
    per_image = ("labels", ".txt")

    def __init__(self, folder: OutputFolder, class_names: ClassNames):
        self._folder = folder
        self._write(*self.files, (" ".join(name.split()) for name in class_names.names))

    def add(self, result: Result, name: str, when: Mapping[str, float]):
        self._write(name, result.to_yolo())

    def close(self) -> str:
        return os.path.join(self._folder.path, self.per_image[0])

    def _write(self, name: str, lines: Iterable[str]):
        path = self._folder.claim(name)
        with writing(path), open(path, "w", **_TEXT) as file:
            file.writelines(f"{line}\n" for line in lines)


# Name → class of one run's writer. `files` and `per_image` (folder, ending) say what it will write.
FORMATS: dict[str, Any] = {"coco": CocoFile, "yolo": YoloFiles, "csv": CsvFile}


class Outputs:
    """Results written as they come; whatever ends the run, what was added is there whole.

    `detections.jsonl` gets a line per image as soon as it is done: file_name, width, height and
    detections, which are COCO's result rows. The file of the format is complete after the `with`.

    Args:
      folder: where to.
      kind: an entry of `FORMATS`.
      class_names: of the results.
    """

    def __init__(self, folder: OutputFolder, kind: str, class_names: ClassNames):
        self._folder, self._masks_begun = folder, False
        self._path = folder.claim(ROWS)
        with writing(self._path), open(self._path, "w", encoding="utf-8"):
            pass  # An earlier run's are gone.
        self._format = FORMATS[kind](folder, class_names)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        print(f"wrote {self._format.close()}")

    def add(self, result: Result, name: str = "", mask: str = "", **when: float):
        """Writes what was found on an image, or on a frame of a video.

        Args:
          result: of an image with a path.
          name: of the file that the format writes for this image alone, if it is one of those.
          mask: name of the file for its mask, if it has one; '' writes none.
          **when: of a frame, `frame` (from 0) and `seconds`.
        """
        height, width = result.image_size
        line = {"file_name": result.path, "width": width, "height": height, **when}
        if result.mask is not None and mask:
            self._write_mask(result, mask)
            line["mask"] = mask
        with writing(self._path), open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line | {"detections": _coco_rows(result, when)}) + "\n")
        self._format.add(result, name, when)

    def _write_mask(self, result: Result, name: str):
        """The mask as a PNG of its values in the colours of pictures, and what they mean."""
        classes = os.path.join(os.path.dirname(name), "classes.txt")
        if not self._masks_begun:
            with writing(path := self._folder.claim(classes)), open(path, "w", **_TEXT) as file:
                named = enumerate(result.class_names.of_masks)
                file.writelines(f"{value} {' '.join(word.split())}\n" for value, word in named)
            self._masks_begun = True
        with writing(path := self._folder.claim(name)):
            save_mask(result.mask, path)


def _coco_rows(result: Result, when: Mapping[str, float]) -> list[dict[str, Any]]:
    """COCO result rows; the image id of a frame is 'clip.mp4#12'."""
    image_id = f"{result.path}#{when['frame']}" if "frame" in when else result.path
    return [{**row, **when} for row in result.to_coco(image_id)]
