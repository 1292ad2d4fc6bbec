"""Rounds of one model against itself, recorded: what benchmarks/gate.py judges rules of gates on.

    python benchmarks/gate_rounds.py --model MODEL --sessions 20 --pairs 120 [--load 2] --out rounds.json.gz

Each session is four fresh processes of the same model, visited as `mlopt gate` visits candidate and baseline. `--load`
starts so many processes that compute without end on the cores of this one. Every query is kept, in nanoseconds.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from watched import cpu

from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.gate.rounds import ROLES, Pair, SideBySide
from mlopt.measure.interleave import Subject
from mlopt.profile import Method
from mlopt.samples.generated import GeneratedSamples
from mlopt.signature import signature_of

STRANGER = """
import numpy
a = numpy.random.rand(300, 300).astype("float32")
while True:
    a = (a @ a) * 1e-3 % 1
"""


def main() -> None:
    options = _options()
    strangers = [
        subprocess.Popen([sys.executable, "-c", STRANGER], env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
        for _ in range(options.load)
    ]
    try:
        sessions = [_session(options.model, number, options.pairs) for number in range(options.sessions)]
    finally:
        for stranger in strangers:
            stranger.kill()
    facts = {
        "model": options.model.name,
        "machine": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "strangers": options.load,
        "onnxruntime": metadata.version("onnxruntime"),
        "roles": ROLES,
        "sessions": sessions,
    }
    with gzip.open(options.out, "wt") as stream:
        json.dump(facts, stream)


def _session(model: Path, number: int, pairs: int) -> dict[str, Any]:
    signature = signature_of(model)
    subject = Subject(model.name, Artifact(ONNX, digest_of(model), model), "onnxruntime")
    feeds = list(GeneratedSamples(signature, 4, 0).feeds(batch=1))
    offline = next(GeneratedSamples(signature, 8, 0).feeds(batch=8))
    with SideBySide(subject, subject, feeds, offline, Method(), number) as running:
        began = time.monotonic()
        found = [_kept(pair) for pair in itertools.islice(running.pairs(), pairs)]
        spent = time.monotonic() - began
        for role in ROLES:
            running.batch(role)
        peaks = [running.peak_memory(role) for role in ROLES]
    print(f"session {number}: {pairs} pairs in {spent:.1f} s, load average {os.getloadavg()[0]:.1f}", flush=True)
    return {"seconds": spent, "peaks": peaks, "load_average": os.getloadavg()[0], "pairs": found}


def _kept(pair: Pair) -> list[list[list[list[int]]]]:
    """By clock and role the two visits, in nanoseconds."""
    return [
        [[[round(second * 1e9) for second in visit] for visit in clock[role]] for role in ROLES]
        for clock in (pair.seconds, pair.cpu)
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--load", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
