"""Olive's ONNX static quantisation pass, through its workflow: unsigned activations, signed weights, per channel."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from given import Given, run
from olive.workflows import run as workflow

SCRIPT = """
import numpy as np
from olive.data.registry import Registry

class Samples:
    def __init__(self, where):
        with np.load(where) as found:
            self.arrays = {name: found[name] for name in found.files if name != "y"}
    def __len__(self):
        return len(next(iter(self.arrays.values())))
    def __getitem__(self, index):
        return {name: array[index] for name, array in self.arrays.items()}, 0

@Registry.register_dataset()
def given_samples(where, **_):
    return Samples(where)
"""


def quantise(given: Given) -> None:
    script = given.out / "samples.py"
    script.write_text(SCRIPT)
    data = {
        "name": "calibration",
        "user_script": str(script),
        "load_dataset_config": {"type": "given_samples", "params": {"where": str(given.calibration)}},
        "dataloader_config": {"batch_size": 1, "params": {"drop_last": False}},
    }
    config = {
        "input_model": {"type": "OnnxModel", "model_path": str(given.model)},
        "data_configs": [data],
        "passes": {
            "quantise": {
                "type": "OnnxStaticQuantization",
                "data_config": "calibration",
                "activation_type": "uint8",
                "precision": "int8",
                "per_channel": True,
                "quant_preprocess": True,
                "calibrate_method": "MinMax",
            }
        },
        "output_dir": str(given.out / "made"),
        "cache_dir": str(given.out / "cache"),
        "log_severity_level": 2,
    }
    workflow(json.loads(json.dumps(config)))
    shutil.move(next(Path(given.out / "made").rglob("*.onnx")), given.result)
    shutil.rmtree(given.out / "cache", ignore_errors=True)


if __name__ == "__main__":
    run(quantise, "olive-ai", "onnxruntime", "onnx")
