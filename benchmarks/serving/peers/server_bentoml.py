"""A BentoML service around ONNX Runtime."""

import os

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service(workers=1)
class Server:
    def __init__(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api(route="/infer")
    def infer(self, inputs: list) -> dict:
        (given,) = inputs
        array = np.array(given["data"], dtype=np.float32).reshape(given["shape"])
        (scores,) = self.session.run(None, {given["name"]: array})
        return {"outputs": [{"name": "scores", "shape": list(scores.shape), "data": scores.ravel().tolist()}]}
