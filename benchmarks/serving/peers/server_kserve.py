"""A model for KServe's own server around ONNX Runtime, with KServe's own types for tensors."""

import os

import onnxruntime as ort
from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid


class Served(Model):
    def load(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.ready = True
        return True

    def predict(self, payload, headers=None, response_headers=None):
        (given,) = payload.inputs
        (scores,) = self.session.run(None, {given.name: given.as_numpy()})
        output = InferOutput("scores", list(scores.shape), "FP32")
        output.set_data_from_numpy(scores, binary_data=False)
        return InferResponse(payload.id or generate_uuid(), self.name, [output])


if __name__ == "__main__":
    model = Served("model")
    model.load()
    ModelServer().start([model])
