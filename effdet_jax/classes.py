"""Class index ↔ category id ↔ name. Inside a network classes are 0 … K - 1; files speak ids.

COCO's ids run from 1 to 90 with ten gaps: 80 categories. The released networks have K = 90 columns,
index = id - 1, and ten of them were never trained. `COCO` is that mapping; its unused columns are
named 'unused 12' and so on. Every other data set gets one column per category, sorted by id.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# The categories of COCO 2017 in the order of their ids, '' where an id is unused (cocodataset.org).
# fmt: off
_BY_ID = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "", "stop sign", "parking meter", "bench", "bird", "cat",
    "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "", "backpack",
    "umbrella", "", "", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana",
    "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake",
    "chair", "couch", "potted plant", "bed", "", "dining table", "", "", "toilet", "", "tv",
    "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush",
)
# fmt: on
# The values of a mask's pixels: 0 for what is of no class, 1 + class index, and what isn't to be judged.
BACKGROUND, IGNORED_PIXEL = 0, 255
MOST_MASK_CLASSES = IGNORED_PIXEL - 1
COCO_NAMES = {number: name for number, name in enumerate(_BY_ID, start=1) if name}


@dataclasses.dataclass(frozen=True)
class ClassNames:
    """Names and category ids of the classes, by index.

    Attributes:
      names: [K] one per class.
      ids: [K] the data set's own category ids, numbers or text, written to result files.
    """

    names: tuple[str, ...]
    ids: tuple[int | str, ...]

    def __post_init__(self):
        if len(self.names) != len(self.ids):
            raise ValueError(f"{len(self.names)} class names but {len(self.ids)} category ids")
        for what, values in (("category id", self.ids), ("class name", self.names)):
            repeated = sorted({str(value) for value in values if values.count(value) > 1})
            if repeated:
                raise ValueError(f"{what} listed more than once: {', '.join(repeated)}")

    def __len__(self) -> int:
        return len(self.names)

    def to_dict(self) -> dict[str, list]:
        """Plain JSON types; `from_dict` is the inverse."""
        return {"names": list(self.names), "ids": list(self.ids)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Sequence]) -> "ClassNames":
        """Inverse of `to_dict`."""
        return cls(tuple(fields["names"]), tuple(fields["ids"]))

    @classmethod
    def from_categories(cls, categories: Iterable[Mapping[str, Any]]) -> "ClassNames":
        """From COCO-JSON categories `{id, name}`: COCO's own 80 give `COCO`, others one class each.

        Raises:
          ValueError: no category, or an id or a name that is listed twice.
        """
        names = {}
        for category in categories:
            if category["id"] in names:
                raise ValueError(f"category id listed more than once: {category['id']}")
            names[category["id"]] = str(category.get("name", f"class {category['id']}"))
        if not names:
            raise ValueError("there are no categories")
        if names == COCO_NAMES:
            return COCO
        ids = sorted(names, key=lambda id_: (isinstance(id_, str), id_))
        return cls(tuple(names[identity] for identity in ids), tuple(ids))

    @classmethod
    def from_names(cls, names: Sequence[str]) -> "ClassNames":
        """For data that has names only: ids are 1 … K, or COCO's where the names are COCO's."""
        if set(names) == set(COCO_NAMES.values()):
            return COCO
        return cls(tuple(names), tuple(range(1, len(names) + 1)))

    @classmethod
    def numbered(cls, num_classes: int) -> "ClassNames":
        """For weights that don't say: COCO's for 90 classes, otherwise 'class 1' …"""
        if num_classes == len(COCO):
            return COCO
        return cls.from_names([f"class {number}" for number in range(1, num_classes + 1)])

    @property
    def of_masks(self) -> tuple[str, ...]:
        """Names of the values of masks' pixels: 'background', then the classes."""
        return ("background", *self.names)

    def index_of_id(self) -> dict[int | str, int]:
        """{category id: class index}."""
        return {identity: index for index, identity in enumerate(self.ids)}

    def index_of_name(self) -> dict[str, int]:
        """{class name: class index}."""
        return {name: index for index, name in enumerate(self.names)}

    def with_ids_of(self, other: "ClassNames") -> "ClassNames":
        """These classes with the ids that `other` has for their names.

        A class that `other` hasn't keeps its own id, or gets the next free one if that is taken.

        Raises:
          ValueError: `other` has a name that isn't here; names all of them.
        """
        ids = dict(zip(other.names, other.ids))
        if strangers := [name for name in ids if name not in self.names and not is_unused(name)]:
            raise ValueError(", ".join(map(repr, strangers)))
        taken = set(other.ids)
        free = (id_ for id_ in itertools.count(1) if id_ not in taken.union(self.ids))
        pairs = zip(self.names, self.ids)
        found = [
            ids[name] if name in ids else next(free) if own in taken else own for name, own in pairs
        ]
        return ClassNames(self.names, tuple(found))

    def difference(self, other: "ClassNames") -> str:
        """One line that says how two class lists differ; empty if they don't."""
        if self == other:
            return ""
        if len(self) != len(other):
            return (
                f"{len(self)} classes ({self.preview()}) against {len(other)} ({other.preview()})"
            )
        pairs = zip(zip(self.names, self.ids), zip(other.names, other.ids))
        index, (ours, theirs) = next(
            (index, pair) for index, pair in enumerate(pairs) if pair[0] != pair[1]
        )
        return f"class {index} is {ours[0]!r} (id {ours[1]}) against {theirs[0]!r} (id {theirs[1]})"

    def preview(self, most: int = 4) -> str:
        """'RBC, WBC, Platelets' or 'person, bicycle, car, motorcycle, …'."""
        return ", ".join(self.names[:most]) + (", …" if len(self) > most else "")


COCO = ClassNames(
    tuple(COCO_NAMES.get(identity, f"unused {identity}") for identity in range(1, 91)),
    tuple(range(1, 91)),
)


def is_unused(name: str) -> bool:
    """Whether a name only stands for an id that COCO leaves free: 'unused 12'."""
    return name in COCO.names and name not in COCO_NAMES.values()
