"""Files and folders that are there whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from effdet_jax.errors import UserError


class DestinationError(UserError):
    """A file or folder can't be written where it was asked for."""


@contextlib.contextmanager
def put_in_place(path: str, *, overwrite: bool) -> Iterator[str]:
    """A path to write a file or folder to, moved to `path` at the end; removed if that isn't reached.

    Raises:
      DestinationError: `path` is there already, or its folder can't be written.
    """
    path = os.path.abspath(path)
    if os.path.lexists(path) and not overwrite:
        raise DestinationError(f"'{path}' exists; give another destination, or --overwrite")
    folder, name = os.path.split(path)
    try:
        os.makedirs(folder, exist_ok=True)
        aside = tempfile.mkdtemp(prefix=f".{name}.", dir=folder)
    except OSError as error:
        raise DestinationError(f"can't write into '{folder}': {error.strerror}") from error
    try:
        yield os.path.join(aside, name)
        _replace(os.path.join(aside, name), path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def text_in_place(path: str, *, newline: str | None = None) -> Iterator[TextIO]:
    """A file for UTF-8 text that is at `path` at the end, instead of one that was there.

    Args:
      newline: of `open`.

    Raises:
      DestinationError: its folder can't be written.
    """
    with (
        put_in_place(path, overwrite=True) as aside,
        open(aside, "w", encoding="utf-8", newline=newline) as file,
    ):
        yield file


def _replace(new: str, old: str):
    remove: Callable[[str], Any] = shutil.rmtree if os.path.isdir(old) else os.remove
    if os.path.lexists(old) and (os.path.isdir(old) or os.path.isdir(new)):
        remove(old)
    os.replace(new, old)
