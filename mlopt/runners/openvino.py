"""OpenVINO on the CPU."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from mlopt.errors import UnsupportedModel

if TYPE_CHECKING:
    import numpy as np

    from mlopt.insight import Profile
    from mlopt.serve.openvino import Network

# "No conversion rule found for operations: acme.Mystery, Unique-17", "Conversion is failed for: Conv-17"
_OPERATORS: Final = re.compile(r"(?:No conversion rule found for operations|Conversion is failed for): ([^\n]+)")
_NODE: Final = re.compile(r"ONNX node '<Node\((?P<type>[^)]+)\): (?P<output>[^>]*)>'")
_NEXT: Final = "use a recipe that runs on ONNX Runtime: mlopt recipes list"


@dataclass(slots=True)
class OpenVinoRunner:
    """Loads for latency, on `threads` threads; in float32, unless the file names another type (`set-precision`).

    Raises `UnsupportedModel` for an operator that it cannot convert, with the node, and for an invalid graph.
    """

    name: ClassVar[str] = "openvino"
    distributions: ClassVar[tuple[str, ...]] = ("openvino",)

    model: Path
    threads: int = field(kw_only=True)
    _network: Network | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> Self:
        self._network = self._loaded()
        return self

    def _loaded(self, *, profiling: bool = False) -> Network:
        from mlopt.serve.openvino import Network, library

        try:
            return Network(self.model, threads=self.threads, profiling=profiling)
        except RuntimeError as error:
            raise UnsupportedModel(
                f"OpenVINO {library().__version__.partition('-')[0]} cannot load the model: "
                f"{_reason(str(error), self.model)}",
                where=str(self.model),
                next=_NEXT,
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._network = None

    @property
    def outputs(self) -> tuple[str, ...]:
        assert self._network is not None
        return self._network.outputs

    def profile(self, feeds: Sequence[Mapping[str, np.ndarray]], *, count: int) -> Profile:
        from mlopt.runners.openvino_profile import recorded

        try:
            return recorded(self._loaded(profiling=True), feeds, count=count)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UnsupportedModel(
                f"OpenVINO failed while profiling the model: {_last_words(str(error))}", where=str(self.model)
            ) from error

    def infer(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        assert self._network is not None
        try:
            return list(self._network.infer(feeds))
        except (RuntimeError, TypeError, ValueError) as error:
            raise UnsupportedModel(
                f"OpenVINO failed while running the model: {_last_words(str(error))}", where=str(self.model)
            ) from error


def _reason(said: str, model: Path) -> str:
    """Which operators of which nodes are the matter, as far as OpenVINO says it; else its last words."""
    names = [name for match in _OPERATORS.finditer(said) for name in re.split(r",\s*", match[1].strip())]
    if not names:
        return _last_words(said)
    failed = {(match["type"], match["output"]) for match in _NODE.finditer(said)}
    if failed:
        nodes = [_node(node) for node in _nodes(model) if any((node.op_type, out) in failed for out in node.output)]
        where = ", ".join(nodes) or ", ".join(sorted(output for _, output in failed))
        return f"{where}: {_last_words(said.partition('Summary:')[0])}"
    types = {name.rpartition("-")[0] if re.search(r"-\d+$", name) else name for name in names}
    nodes = [_node(node) for node in _nodes(model) if _type(node) in types]
    return f"it has no {' and no '.join(sorted(types))}: {', '.join(nodes[:3]) or 'in a sub-graph'}" + (
        f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
    )


def _nodes(model: Path) -> Iterator[Any]:
    from mlopt.onnx_file import load_graph
    from mlopt.signature import walk

    yield from walk(load_graph(model).graph)


def _type(node: Any) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


def _node(node: Any) -> str:
    return f"node {node.name or node.output[0]!r} ({_type(node)})"


def _last_words(said: str) -> str:
    """OpenVINO puts where in its sources a check failed first, and what was wrong last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it does not say why"
