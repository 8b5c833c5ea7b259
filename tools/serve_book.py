"""Serve the built book on this machine: `make serve`, or `make serve PORT=8001`."""

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(port: str) -> int:
    if not (port.isdecimal() and int(port) < 65536):
        print(f"PORT must be a number up to 65535, got {port}", file=sys.stderr)
        return 1
    handler = partial(SimpleHTTPRequestHandler, directory=ROOT / "_build" / "html")
    try:
        server = ThreadingHTTPServer(("127.0.0.1", int(port)), handler)
    except OSError as error:
        print(
            f"Port {port} cannot be had ({error.strerror}). Name another: make serve PORT=8001",
            file=sys.stderr,
        )
        return 1
    with server:
        print(f"The book is at http://127.0.0.1:{server.server_port} until Ctrl-C", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
