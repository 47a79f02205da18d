import pytest

from effdet_jax import paper
from tests.conftest import ROOT


def documented(name: str) -> list[str]:
    """The lines of a table in docs/paper.md: those below its command."""
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    below = text.split(f"summary --table={name}\n```\n", 1)[1].lstrip()
    return below.split("\n\n", 1)[0].splitlines()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("count", "printed", "rounds"),
    [
        (3_880_067, "3.9M", True),
        (3_840_000, "3.9M", False),
        (134_133_865_152, "135B", False),
        (134.6e9, "135B", True),
        (407.6e9, "410B", False),  # Its zero is a digit as any other.
        (0.8752, "0.88", True),
        (0.745, "0.71", False),
    ],
)
def test_rounding(count, printed, rounds):
    assert paper.rounds_to(count, printed) is rounds


def test_difference_is_a_share_of_the_print():
    assert paper.difference(19.8e6, "20M") == pytest.approx(-0.01)
    assert paper.difference(0.75, "0.50") == pytest.approx(0.5)


def test_released_models_are_those_of_table_1():
    rows = paper.table_1()
    assert [row["as printed"] for row in rows] == [True] * 9
    # 64 · 1.35² = 116.6 rounds up to 120; 512 + 128 · 5 = 1152 and 3 + 5 = 8.
    differ = {row["name"]: row["equations differ"] for row in rows}
    assert differ["efficientdet-d2"] == {"channels": 120}
    assert differ["efficientdet-d5"] == {"size": 1152, "layers": 8}
    assert paper.markdown("1", rows) == documented("1")


def test_rows_of_the_document_are_those_of_the_command():
    # One fast row; those of all others are below.
    (printed,) = (row for row in paper.TABLE_4 if row.model == "retinanet-r50" and not row.changes)
    (line,) = (line for line in documented("4") if printed.name in line)
    (counted,) = paper.markdown("4", paper.costs([printed]))[2:]
    assert cells(line) == cells(counted)
    assert cells(line)[1:3] == ["34,070,414", "34M"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2", "4", "5", "fig6"])
def test_the_document_is_what_the_command_prints(name):
    assert paper.markdown(name, paper.TABLES[name]()) == documented(name)


# What doesn't round to the print, and docs/paper.md explains: (row, count).
DIFFER: dict[str, set[tuple[str, str]]] = {
    "2": {
        ("EfficientDet-D1 (640)", "multiply_adds"),
        *((f"EfficientDet-D{d}", "multiply_adds") for d in ("5 (1280)", "6 (1280)")),
        *((f"EfficientDet-D{d}", "multiply_adds") for d in ("7 (1536)", "7x (1536)")),
        *(
            (f"R50 + NAS-FPN ({size})", what)
            for size in ("1024", "1280", "1280@384")
            for what in ("multiply_adds", "profiled")
        ),
    },
    "4": {("B3 + FPN", what) for what in ("multiply_adds", "parameters", "profiled")},
    "5": {
        ("BiFPN (w/ weighted)", "multiply_adds"),
        ("Fully-connected FPN", "multiply_adds"),
        ("NAS-FPN", "parameters"),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2", "4", "5"])
def test_what_rounds_to_the_print(name):
    differ = {
        (row["name"], what)
        for row in paper.TABLES[name]()
        for what, rounds in row["rounds"].items()
        if not rounds
    }
    assert differ == DIFFER[name]
