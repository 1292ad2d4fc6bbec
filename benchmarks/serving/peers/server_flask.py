"""A plain Flask app around ONNX Runtime, as tutorials show it, in gunicorn with threads."""

import os

import numpy as np
import onnxruntime as ort
from flask import Flask, jsonify, request

options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
app = Flask(__name__)


@app.get("/ready")
def ready():
    return {"ready": True}


@app.post("/infer")
def infer():
    (given,) = request.get_json()["inputs"]
    array = np.array(given["data"], dtype=np.float32).reshape(given["shape"])
    (scores,) = session.run(None, {given["name"]: array})
    return jsonify({"outputs": [{"name": "scores", "shape": list(scores.shape), "data": scores.ravel().tolist()}]})
