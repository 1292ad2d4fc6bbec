"""The container's health check: exit 0 when the server on this machine is ready. Starts nothing heavy."""

from __future__ import annotations

import http.client
import sys


def main(arguments: list[str]) -> int:
    """Ask http://127.0.0.1:PORT/v2/health/ready (PORT is the one argument, 8080 if absent), or https where that is."""
    port = int(arguments[0]) if arguments else 8080
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        return _asked(connection)
    except (http.client.HTTPException, ConnectionResetError):
        return _over_tls(port)
    except OSError:
        return 1


def _over_tls(port: int) -> int:
    import ssl

    # It asks this very machine whether it is ready: whose certificate that is makes no difference.
    context = ssl._create_unverified_context()  # noqa: S323
    try:
        return _asked(http.client.HTTPSConnection("127.0.0.1", port, timeout=3, context=context))
    except (http.client.HTTPException, OSError):
        return 1


def _asked(connection: http.client.HTTPConnection) -> int:
    try:
        connection.request("GET", "/v2/health/ready")
        return 0 if connection.getresponse().status == 200 else 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
