"""Runs a `.stablehlo` file as another program would: jax and numpy, nothing of this package.

python run_stablehlo.py FILE FOLDER reads FOLDER/in_0.npz, … (`image`, `content`) and writes the
results to FOLDER/out_0.npz, …
"""

import os
import sys

import jax
import jax.export
import numpy as np


def main(path: str, folder: str):
    with open(path, "rb") as file:
        exported = jax.export.deserialize(bytearray(file.read()))
    call = jax.jit(exported.call)
    for name in sorted(os.listdir(folder)):
        if not name.startswith("in_"):
            continue
        with np.load(os.path.join(folder, name)) as batch:
            found = jax.device_get(call(batch["image"], batch["content"]))
        np.savez(os.path.join(folder, name.replace("in_", "out_")), **found)
    foreign = {"flax", "effdet_jax"} & set(sys.modules)
    assert not foreign, f"running it needed {foreign}"


if __name__ == "__main__":
    main(*sys.argv[1:])
