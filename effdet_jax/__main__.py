"""`python -m effdet_jax` lists the commands; `python -m effdet_jax train …` runs one of them."""

import difflib
import runpy
import sys
from collections.abc import Sequence

COMMANDS = {
    "check_data": "what a data folder holds, and what is wrong with it",
    "train": "trains a detector, or goes on with a run that was stopped",
    "evaluate": "COCO metrics of a checkpoint on a data set",
    "predict": "detections on image files: a JSON and drawn pictures",
    "summary": "parameters, multiply-adds, shapes and anchors of a model",
    "convert": "weights from and to PyTorch effdet and google/automl",
    "export": "a trained detector as a file that runs without this package",
    "plan": "whether a training fits TPUs that aren't here",
    "benchmark": "measures models, input and scaling on this machine",
}


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("help", "-h", "--help", "--helpfull", "--helpshort"):
        print("python -m effdet_jax COMMAND …, each with --help:\n")
        print("\n".join(f"  {name:10s} {line}" for name, line in COMMANDS.items()))
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        (nearest,) = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.0)
        print(
            f"error: there is no command '{name}'. Did you mean python -m effdet_jax {nearest}? "
            f"There are {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    sys.argv = [f"effdet_jax {name}", *arguments[1:]]
    runpy.run_module(f"effdet_jax.{name}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
