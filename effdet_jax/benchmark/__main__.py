"""python -m effdet_jax.benchmark --config=configs/d0.py: one model here, by itself.
python -m effdet_jax.benchmark peers: ours beside PyTorch's effdet and ONNX Runtime.
"""

import sys

from effdet_jax.benchmark import works
from effdet_jax.command import run

if __name__ == "__main__":
    if sys.argv[1:2] == ["peers"]:
        from effdet_jax.benchmark import peers

        del sys.argv[1]
        run(peers.main, peers.define_flags)
    else:
        run(works.main, works.define_flags)
