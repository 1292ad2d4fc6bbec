"""mlopt: a trained model to a measured, judged, slim container image, in one command.

import mlopt
bundle = mlopt.compile("model.onnx", target="host", samples="images/")
print(bundle.manifest["winner"], bundle.path / "report.html")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from mlopt.bundle import Bundle

__all__ = ["compile"]


def compile(model: str | os.PathLike[str], *, target: str = "host", quiet: bool = True, **options: Any) -> Bundle:
    """What `mlopt compile` does; `options` are the fields of `mlopt.request.Request`.

    Returns the bundle that was written. Raises a `mlopt.errors.MloptError` for all that a person can act on.
    """
    from pathlib import Path

    from mlopt.compiler import compile_model
    from mlopt.progress import Progress
    from mlopt.request import Request

    for name in ("samples", "project", "out", "store"):
        if options.get(name) is not None:
            options[name] = str(options[name]) if name == "samples" else Path(options[name])
    return compile_model(Request(model=Path(model), target=target, **options), Progress(quiet=quiet))
