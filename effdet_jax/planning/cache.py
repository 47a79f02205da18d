"""Compiled figures on disk: a program of minutes is compiled once per configuration and version."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

from effdet_jax.files import written_whole
from effdet_jax.planning.program import Program
from effdet_jax.planning.report import Job

# What makes the program, for `source_hash`; a change anywhere in them may change the figures.
SOURCES = (
    "compilation.py",
    "experiment.py",
    "losses.py",
    "model",
    "ops",
    "planning/hlo.py",
    "planning/program.py",
    "targets.py",
    "training",
    "variants.py",
)


class Cache:
    """A folder with one JSON file per program; without a folder nothing is kept."""

    def __init__(self, folder: str):
        self._folder = folder

    def get(
        self, key: dict[str, Any], make: Callable[[], tuple[Job, Program]]
    ) -> tuple[Job, Program]:
        """The job and program of `key`; `make` compiles it if it isn't there.

        Args:
          key: plain JSON types; all that the program depends on.
        """
        text = json.dumps(key, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:24] + ".json"
        path = os.path.join(self._folder, "plan", name)
        if self._folder and os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
            return Job.from_dict(found["job"]), Program.from_dict(found["program"])
        job, program = make()
        if self._folder:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with written_whole(path) as file:
                json.dump(
                    {"key": key, "job": dataclasses.asdict(job), "program": program.to_dict()},
                    file,
                    indent=1,
                )
        return job, program
