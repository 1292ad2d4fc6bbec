"""deploy/ of a bundle: the templates of docker/deploy, filled in. The same facts give the same bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt import paths
from mlopt.deploy.resources import MIB

if TYPE_CHECKING:
    from jinja2 import Environment

    from mlopt.deploy.facts import DeployFacts

FILES: Final = (
    "compose.yaml",
    "k8s/kustomization.yaml",
    "k8s/deployment.yaml",
    "k8s/service.yaml",
)


def write_deploy(facts: DeployFacts, into: Path) -> tuple[Path, ...]:
    """Write the files below the folder `into`, which is made, and name them."""
    environment = templates()
    written = []
    for name in FILES:
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(environment.get_template(f"{name}.j2").render(facts=facts), encoding="utf-8")
        written.append(path)
    return tuple(written)


class _Verbatim(str):
    """Text that stands in the file as it is."""

    __slots__ = ()


def templates() -> Environment:
    """Those of docker/deploy. Every expression becomes one YAML scalar, quoted: a template cannot forget it. `line` is
    for comments."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(paths.folder("docker") / "deploy"),
        autoescape=False,  # noqa: S701 - YAML, not HTML; `finalize` does what escaping does there
        finalize=_scalar,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"line": _line, "compose": _compose, "mebibytes": _mebibytes, "cores": _cores}
    return environment


def _scalar(value: Any) -> Any:
    """A YAML scalar: numbers plain, text in double quotes, in ASCII, with YAML's own escapes.

    JSON's escapes are YAML's but for characters beyond the first plane, where JSON writes two halves.
    """
    if isinstance(value, (_Verbatim, int)):
        return value
    if isinstance(value, (tuple, list)):
        return _Verbatim(f"[{', '.join(str(_scalar(part)) for part in value)}]")
    if not isinstance(value, str):
        raise TypeError(f"a template shows {type(value).__name__}, which is no scalar")
    quoted = json.dumps(_storable(value), ensure_ascii=False)
    return _Verbatim(re.sub(r"[^ -~]", lambda found: f"\\U{ord(found[0]):08x}", quoted))


def _line(value: str) -> _Verbatim:
    """Text for a comment: one line whatever is in it."""
    return _Verbatim(re.sub(r"[^ -~]", lambda found: ascii(found[0])[1:-1], _storable(value)))


def _compose(value: str) -> str:
    """Compose replaces $NAME in values; doubled it stays what it is."""
    return value.replace("$", "$$")


def _mebibytes(size: int) -> int:
    return size // MIB


def _cores(thousandths: int) -> str:
    return f"{thousandths / 1000:g}"


def _storable(text: str) -> str:
    """Half a surrogate pair, as names of broken files hold, is not text that UTF-8 can carry."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
