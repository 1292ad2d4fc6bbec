"""uvicorn's server without its command line, which its package imports with all that reloads and forks: 20 ms."""

from __future__ import annotations

import sys
from types import ModuleType

_NAME = "uvicorn.main"

if "uvicorn" not in sys.modules:
    # For as long as the package is imported a module with the same names stands in for it.
    stand_in = ModuleType(_NAME)
    stand_in.__dict__.update(Server=None, main=None, run=None)
    sys.modules[_NAME] = stand_in
    try:
        import uvicorn  # noqa: F401
    except ImportError:  # another uvicorn, which takes more from there
        pass
    finally:
        del sys.modules[_NAME]

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server

__all__ = ["Config", "FlowControl", "HttpToolsProtocol", "Server"]
