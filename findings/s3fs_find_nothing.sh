#!/usr/bin/env bash
# s3fs 2026.9.0, find(path, detail=True): a mapping from names to facts where there are objects, but an empty list where
# there are none, so that `.items()` of an empty folder raises AttributeError. fsspec's local files give {} for the same.
#
# Guessed: {} for nothing, as the signature of fsspec and its other file systems have it.
# Seen:
#     s3, one object: dict    s3, nothing: list    file, nothing: dict
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet s3fs==2026.9.0 fsspec==2026.9.0 'moto[s3]==5.2.5' flask==3.1.3 flask-cors==6.0.5
venv/bin/python - <<'PY'
import logging

import fsspec
import s3fs
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
host, port = server.get_host_and_port()
files = fsspec.filesystem("s3", key="a", secret="b", endpoint_url=f"http://{host}:{port}")
files.mkdir("bucket")
files.pipe_file("s3://bucket/one/x", b"x")
seen = [
    type(files.find("s3://bucket/one", detail=True)).__name__,
    type(files.find("s3://bucket/none", detail=True)).__name__,
    type(fsspec.filesystem("file").find("none", detail=True)).__name__,
]
server.stop()
print(s3fs.__version__, "s3, one object: {}    s3, nothing: {}    file, nothing: {}".format(*seen), sep="\n")
assert seen == ["dict", "list", "dict"], "the behaviour has changed"
PY
