import numpy as np

from effdet_jax.benchmark.race import report
from effdet_jax.benchmark.race.case import Case
from effdet_jax.benchmark.race.contestant import Contestant, Load

CASE = Case("forward", "d0", 4, (512, 512))


def contestant(name, medians, peak_mib=300.0):
    """Stands in for a process that has run."""
    found = Contestant.__new__(Contestant)
    found.name, found.result = name, np.zeros(1)
    found.milliseconds = [[ms - 1, ms, ms + 5] for ms in medians]
    found.peak_mib, found.first_seconds = peak_mib, 2.0
    return found


def found(*contestants):
    return {one.name: one for one in contestants}


def test_rows_hold_the_fastest_of_a_group_and_the_ratio_to_it():
    some = found(contestant("effdet_jax", [60]), contestant("A", [80]), contestant("B", [75]))
    assert report.row(CASE, some, ("A", "B"), 0.9) == {
        "case": "forward d0 512 batch 4",
        "peer": "B",
        "effdet_jax_ms": 60.0,
        "peer_ms": 75.0,
        "ratio": 0.8,
        "target": 0.9,
    }


def test_a_case_has_every_contestants_figures():
    case = report.case_report(CASE, found(contestant("A", [10, 50, 20], None)), Load(0.1, 0.2))
    assert case["foreign_load"] == {"median": 0.1, "largest": 0.2}
    assert case["contestants"]["A"] == {
        "median_ms": 20.0,
        "images_per_second": 200.0,
        "fastest_ms": 9.0,
        "peak_mib": None,
        "first_result_s": 2.0,
    }


def test_a_machine_is_named_with_its_versions():
    machine = report.machine("cpu")
    assert machine["versions"]["jax"] and machine["versions"].keys() == set(report.PACKAGES)
    assert machine["processor"]


def test_the_table_says_what_was_reached():
    some = found(contestant("effdet_jax", [60]), contestant("A", [50], None))
    text = "\n".join(
        report.table(
            {
                "processor": "2 × some",
                "versions": {"jax": "1"},
                "turns": 1,
                "seconds": 1.0,
                "rows": [report.row(CASE, some, ("A",), target) for target in (1.3, 1.0)],
                "cases": [report.case_report(CASE, some, Load(0.01, 0.25))],
            }
        )
    )
    assert text.startswith("2 × some; jax 1; 1 turns of 1.0 s\n")
    assert "| 60.0 ms | A | 50.0 ms | 1.20 | 1.30 | reached |" in text
    assert "| 1.20 | 1.00 | missed |" in text
    assert "| effdet_jax | 60.0 ms | 59.0 ms | 67 | 300 MiB | 2 s |" in text
    assert "| A | 50.0 ms | 49.0 ms | 80 | — | 2 s |" in text
    assert "1% of the processors in the median turn, 25% in the worst" in text
