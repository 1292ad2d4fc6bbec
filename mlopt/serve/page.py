"""The page at /: one file, no outside resource, filled with what the model declares."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from functools import cache
from html import escape
from pathlib import Path
from typing import Final

from mlopt.serve.repository import Repository
from mlopt.serve.served import Served

_TEMPLATE: Final = Path(__file__).with_name("page.html")


def page(served: Served, models: Repository) -> str:
    """The HTML of the page for this model, with the others to choose from."""
    serving = served.serving
    facts = {
        "name": serving.name,
        "version": serving.version,
        "classifies": serving.classifies_pictures,
        "metadata": serving.metadata(),
        "models": [[one.serving.name, one.serving.version] for one in models.all],
    }
    # "</script>" inside a model's name must not end the data block.
    data = json.dumps(facts).replace("<", "\\u003c")
    return _template().replace("{{name}}", escape(serving.name)).replace("{{facts}}", data)


def security_headers() -> dict[str, str]:
    """Nothing may be loaded from elsewhere, and only the page's own script runs."""
    text = _template()
    script = text.split("<script>", 1)[1].split("</script>", 1)[0]
    allowed = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{allowed}'; style-src 'unsafe-inline'; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


@cache
def _template() -> str:
    return _TEMPLATE.read_text(encoding="utf-8")
