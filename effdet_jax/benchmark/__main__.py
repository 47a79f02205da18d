"""python -m effdet_jax.benchmark --config=configs/d0.py: one model here, by itself.
python -m effdet_jax.benchmark peers: beside PyTorch's effdet and ONNX Runtime.
python -m effdet_jax.benchmark scaling --config=…: on 1, 2, 4 … devices.
python -m effdet_jax.benchmark input --config=…: JPEGs to training batches, by worker processes.
python -m effdet_jax.benchmark fusion --config=…: softmax against fast fusion of features.
python -m effdet_jax.benchmark learn --output=FOLDER: trains every pyramid, fusion and scaling, small.
"""

import importlib
import sys

import jax

from effdet_jax.cli import run

TOPICS = ("peers", "scaling", "input", "fusion", "learn")
MODULES = {"peers": "race.peers", "learn": "ablation.learn"}

if __name__ == "__main__":
    topic = sys.argv.pop(1) if sys.argv[1:2] and sys.argv[1] in TOPICS else "model"
    # What a program takes to compile is measured, too: none may come from an earlier run.
    jax.config.update("jax_enable_compilation_cache", topic == "learn")
    module = importlib.import_module(f"effdet_jax.benchmark.{MODULES.get(topic, topic)}")
    run(module.main, module.define_flags)
