"""Where image files lie: below which folder, and under which name on this machine."""

import collections
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable, Sequence

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class Locator:
    """Finds images below a folder by the names that annotations give them.

    A folder is listed once instead of asking for every file; the whole tree is only read when a
    name isn't there as written.

    Args:
      root: folder that the names are relative to.
    """

    def __init__(self, root: str):
        self._root = root
        self._listed: dict[str, set[str]] = {}
        self._by_base: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        self._walked = False

    def holds(self, name: str) -> bool:
        """Whether the file is there under exactly this name."""
        folder, base = os.path.split(os.path.join(self._root, name))
        if folder not in self._listed:
            self._listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return base in self._listed[folder]

    def find(self, name: str) -> str | None:
        """The image's path below the folder: as written, else under another spelling.

        In this order: slashes turned, %-codes decoded, another Unicode form, another case, the base
        name alone, the base name without its ending. One image must be the only one that fits, or
        share more of the written path than any other.
        """
        if self.holds(name):
            return name
        self._walk()
        plain = _plain(name)
        found = self._by_base.get(os.path.basename(plain)) or self._by_stem.get(_stem(plain), [])
        shared = [_shared_parts(plain, _plain(path)) for path in found]
        longest = [path for path, count in zip(found, shared) if count == max(shared)]
        return longest[0] if len(longest) == 1 else None

    def find_all(self, names: Iterable[str]) -> dict[str, str]:
        """{name: path} of the names that `find` finds under another spelling.

        An image that a name says as it is, or that two names would take, is nobody else's.
        """
        others = {name: self.find(name) for name in set(names) if not self.holds(name)}
        claims = collections.Counter(others.values())
        claims.update(os.path.normpath(name) for name in set(names) - set(others))
        return {name: path for name, path in others.items() if path and claims[path] == 1}

    def _walk(self):
        if self._walked:
            return
        self._walked = True
        by_base, by_stem = collections.defaultdict(list), collections.defaultdict(list)
        for path in list_images(self._root):
            by_base[os.path.basename(_plain(path))].append(path)
            by_stem[_stem(_plain(path))].append(path)
        self._by_base, self._by_stem = by_base, by_stem


def list_images(folder: str) -> list[str]:
    """Paths of all images below a folder, relative to it, sorted; hidden folders are left out."""
    return list_files(folder, SUFFIXES)


def list_files(folder: str, suffixes: tuple[str, ...], depth: int = 99) -> list[str]:
    """Paths of files with one of the endings, relative to the folder, at most `depth` folders down."""
    found = []
    for here, folders, files in os.walk(folder):
        relative = os.path.relpath(here, folder)
        level = 0 if relative == "." else relative.count(os.sep) + 1
        folders[:] = sorted(name for name in folders if not name.startswith(".") and level < depth)
        found += [
            os.path.normpath(os.path.join(relative, name))
            for name in sorted(files)
            if name.lower().endswith(suffixes) and not name.startswith(".")
        ]
    return found


def find_images(annotations: str, names: Sequence[str], words: Iterable[str] = ()) -> str:
    """The folder around an annotation file that holds most of a sample of the listed images.

    Args:
      annotations: path of the file.
      names: of images, as it writes them.
      words: names that a folder of images may have besides the file's own.
    """
    here = os.path.dirname(os.path.abspath(annotations))
    stem = os.path.splitext(os.path.basename(annotations))[0].removeprefix("instances_")
    roots = [here, os.path.dirname(here)]
    parts = [part for word in (stem, *words) for part in (word, os.path.join("images", word))]
    candidates = [
        os.path.normpath(os.path.join(root, part))
        for root in roots
        for part in [*parts, "images", ""]
    ]
    sample = names[:: max(1, len(names) // 50)]

    def hits(folder: str) -> int:
        return sum(os.path.isfile(os.path.join(folder, name)) for name in sample)

    best = max(candidates, key=hits)
    if hits(best):
        return best
    # Written on another machine: the names tell nothing of folders here.
    locators = {folder: Locator(folder) for folder in candidates if os.path.isdir(folder)}
    return max(locators, key=lambda folder: sum(map(bool, map(locators[folder].find, sample))))


def _plain(name: str) -> str:
    """What stays of a name when spelling is left aside: '..\\Media\\a%20B.JPG' is 'media/a b.jpg'."""
    name = re.sub(r"^.*\?d=", "", name)  # Label Studio's '/data/local-files/?d=folder/a.jpg'.
    name = urllib.parse.unquote(name.replace("\\", "/")).split("?")[0]
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return unicodedata.normalize("NFC", "/".join(parts)).casefold()


def _stem(plain: str) -> str:
    return os.path.splitext(os.path.basename(plain))[0]


def _shared_parts(one: str, other: str) -> int:
    """How many last parts of two paths are the same, whatever their endings."""
    count, parts = 0, [reversed(os.path.splitext(path)[0].split("/")) for path in (one, other)]
    for mine, theirs in zip(*parts):
        if mine != theirs:
            break
        count += 1
    return count
