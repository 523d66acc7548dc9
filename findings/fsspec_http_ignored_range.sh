#!/usr/bin/env bash
# fsspec 2026.9.0, cat_file(url, start, end) over http: where a server ignores ranges, as HTTP lets it (Python's own
# http.server does), the answer 200 with the whole file is returned as if it were the part. Nothing is raised or cut,
# although open() with seek() notices the same server and raises.
#
# Guessed: ten bytes, or an error.
# Seen:
#     asked for 10 of 100000 bytes, got 100000
#     open, seek, read: ValueError: The HTTP server doesn't appear to support range requests. [...]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet fsspec==2026.9.0 aiohttp==3.14.5
venv/bin/python - <<'PY'
import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


Path("served").mkdir()
Path("served/x.bin").write_bytes(bytes(100_000))
server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory="served"))
server.handle_error = lambda *_: None  # of a client that hangs up
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/x.bin"
files = fsspec.filesystem("http")
part = files.cat_file(url, start=50_000, end=50_010)
print(fsspec.__version__, f"asked for 10 of 100000 bytes, got {len(part)}", sep="\n")
try:
    with files.open(url) as opened:
        opened.seek(50_000)
        seen = f"{len(opened.read(10))} bytes"
except ValueError as error:
    seen = f"ValueError: {error}"
print("open, seek, read:", seen)
assert len(part) == 100_000 and "support range requests" in seen, "the behaviour has changed"
PY
