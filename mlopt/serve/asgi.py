"""uvicorn's server without its command line, which its package imports with all that reloads and forks: 20 ms."""

from __future__ import annotations

from mlopt.serve.lean import imported

imported("uvicorn", without=("uvicorn.main",), Server=None, main=None, run=None)

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server

__all__ = ["Config", "FlowControl", "HttpToolsProtocol", "Server"]
