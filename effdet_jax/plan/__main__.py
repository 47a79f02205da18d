"""Whether a training fits a slice of TPUs that isn't here, and the memory that it takes there.

python -m effdet_jax.plan --config=configs/d0.py --topology=v5e-8

The very train step is compiled for the slice with libtpu's compiler (pip install 'jax[tpu]'), which
takes minutes and needs no TPU. Without `--topology` it is compiled for the devices of this machine.
"""

import json

from absl import flags
from ml_collections import ConfigDict

from effdet_jax.cli import define_config_flag, run
from effdet_jax.config import ConfigError
from effdet_jax.plan.planner import Planner, find_target, with_changes
from effdet_jax.plan.report import lines


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": define_config_flag(required=True),
        "topology": flags.DEFINE_string(
            "topology",
            "",
            "slice of TPUs, 'v5e:8x8' or 'v5e-64'; this machine's devices if not given",
        ),
        "batch": flags.DEFINE_string(
            "batch", "", "global batch: a number, or 'auto' for the largest that fits"
        ),
        "remedies": flags.DEFINE_bool("remedies", True, "try what would fit if it doesn't"),
        "as_json": flags.DEFINE_bool("json", False, "print one JSON object"),
    }


def main(config: ConfigDict, topology: str, batch: str, remedies: bool, as_json: bool) -> int:
    planner = Planner(find_target(topology))
    if batch == "auto":
        report = planner.largest(config)
    else:
        if batch:
            config = with_changes(config, {"batch_size": _batch_size(batch)})
        report = planner.plan(config)
        if not report["fits"] and remedies:
            report["remedies"] = list(planner.remedies(config))
    print(json.dumps(report) if as_json else "\n".join(lines(report)))
    return 0 if report["fits"] else 1


def _batch_size(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ConfigError(f"--batch={text} is neither a number nor 'auto'")
    return int(text)


if __name__ == "__main__":
    run(main, define_flags)
