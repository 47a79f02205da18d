"""What a command is to look at: files, folders with all that is below them, patterns."""

import dataclasses
import glob
import os
from collections import Counter
from collections.abc import Collection, Sequence

from effdet_jax.data.example import DataError
from effdet_jax.data.locate import SUFFIXES
from effdet_jax.inference.outputs import written_files


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Files found.

    Attributes:
      paths: as one would type them, each file once.
      names: of the same, relative to the deepest folder that holds all of them, with slashes: what
        tells them apart.
      skipped: files of the folders that are of no known kind, and pictures of earlier predictions.
    """

    paths: tuple[str, ...]
    names: tuple[str, ...]
    skipped: tuple[str, ...]

    def stems(self) -> tuple[str, ...]:
        """Names for output files, an ending to follow: no two are the same.

        It is the name without its ending: `a.jpg` and `b.png` are `a` and `b`. Two that would be the
        same keep it: `a.jpg` and `a.png` are `a.jpg` and `a.png`.
        """
        stems = [os.path.splitext(name)[0] for name in self.names]
        times = Counter(stem.casefold() for stem in stems)  # Of one name on Windows and macOS.
        found = tuple(
            stem if times[stem.casefold()] == 1 else name for name, stem in zip(self.names, stems)
        )
        return found if len(set(found)) == len(found) else self.names  # a.jpg, a.png, a.png.bmp.


def find_inputs(given: Sequence[str], suffixes: tuple[str, ...] = SUFFIXES) -> Inputs:
    """Files from files, folders (all with these endings below them) and patterns such as 'a/*.jpg'.

    Hidden files and folders are passed over. A file that is named is taken whatever its ending.

    Raises:
      DataError: one of them is nothing, or none was given.
    """
    if not given:
        raise DataError("no images given: python -m effdet_jax.predict IMAGES… --checkpoint=…")
    paths: dict[str, str] = {}  # By absolute path: the same file may be given twice.
    roots, skipped = [], []
    for one in given:
        before, passed = len(paths), len(skipped)
        here = [one] if os.path.exists(one) else sorted(glob.glob(one, recursive=True))
        for place in here:
            if os.path.isdir(place):
                roots.append(os.path.abspath(place))
                files, others = _walk(place, suffixes)
                skipped += others
            elif place == one or place.lower().endswith(suffixes):
                roots.append(os.path.dirname(os.path.abspath(place)))
                files = [place]
            else:
                files = []
                skipped.append(place)
            for path in files:
                paths.setdefault(os.path.abspath(path), path)
        if not here or (len(paths) == before and not _known(here, paths)):
            raise DataError(_nothing_there(one, skipped[passed:]))
    root = _common(roots)
    names = tuple(os.path.relpath(path, root).replace(os.sep, "/") for path in paths)
    return Inputs(tuple(paths.values()), names, tuple(skipped))


def _walk(folder: str, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(files with these endings, others) below a folder, sorted."""
    found, others = [], []
    written: set[str] = set()
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        written |= written_files(here)
        for name in sorted(name for name in files if not name.startswith(".")):
            path = os.path.join(here, name)
            is_input = name.lower().endswith(suffixes) and os.path.abspath(path) not in written
            (found if is_input else others).append(path)
    return found, others


def _known(places: Sequence[str], paths: Collection[str]) -> bool:
    """Whether something there was found by an earlier argument already."""
    inside = tuple(os.path.join(os.path.abspath(place), "") for place in places)
    return any(f"{path}{os.sep}".startswith(inside) for path in paths)


def _nothing_there(given: str, skipped: Sequence[str]) -> str:
    if skipped:
        return (
            f"no image '{given}': of {len(skipped)} files there none is one, such as {skipped[0]}"
        )
    return f"no image '{given}': no such file, and no folder with images"


def _common(folders: Sequence[str]) -> str:
    try:
        return os.path.commonpath(folders)
    except ValueError as error:  # Windows.
        raise DataError(
            "the images are on several drives: predict those of one at a time"
        ) from error
