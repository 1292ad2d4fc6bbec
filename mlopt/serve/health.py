"""The container's health check: exit 0 when the server on this machine is ready. Starts nothing heavy."""

from __future__ import annotations

import http.client
import sys


def main(arguments: list[str]) -> int:
    """Ask http://127.0.0.1:PORT/v2/health/ready (PORT is the one argument, 8080 if absent)."""
    port = int(arguments[0]) if arguments else 8080
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", "/v2/health/ready")
        return 0 if connection.getresponse().status == 200 else 1
    except OSError:
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
