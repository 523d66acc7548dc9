"""A real S3 server on this machine (moto's), behind a small proxy of ours that adds latency, faults and a count.

python -m tests.object_store    # serves until it is stopped; prints the endpoint
"""

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.request import urlopen

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Proxy:
    """Forwards to a server.

    Attributes:
        latency: seconds before each answer.
        faults: what happens to the next GET requests for ranges, one each: drop, 500, slow_down, expired, truncate,
            corrupt.
        counts: answered requests by method, and `bytes` that were sent.
        most_at_once: requests that were under way together.
        keeps: ranges of objects are cut here of what the server gave once, so that its time is not measured.
    """

    port: int
    latency: float = 0.0
    faults: deque[str] = field(default_factory=deque)
    counts: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    keeps: bool = False
    kept: dict[str, bytes] = field(default_factory=dict)
    under_way: int = 0
    lock: Any = field(default_factory=Lock)

    @contextmanager
    def served(self) -> Iterator[str]:
        """Give the URL."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, BrokenPipeError):
            self.close_connection = True

    def answer(self) -> None:
        proxy, body = self.proxy, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with proxy.lock:
            proxy.under_way += 1
            proxy.most_at_once = max(proxy.most_at_once, proxy.under_way)
            ranged = self.command == "GET" and "Range" in self.headers
            fault = proxy.faults.popleft() if ranged and proxy.faults else ""
        time.sleep(proxy.latency)
        try:
            if fault == "drop":
                self.close_connection = True
            elif fault in ("500", "slow_down", "expired"):
                status, text = {"500": (500, b""), "slow_down": (503, SLOW_DOWN), "expired": (403, EXPIRED)}[fault]
                self.reply(status, {"Content-Type": "application/xml"}, text)
            elif ranged and proxy.keeps:
                self.from_kept()
            else:
                self.reply(*self.forwarded(body), fault)
        finally:
            with proxy.lock:
                proxy.under_way -= 1

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815 - as http.server calls them

    def forwarded(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.proxy.port)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        left = ("transfer-encoding", "connection", "date", "server")
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in left}
        content = answer.read()
        connection.close()
        return answer.status, headers, content

    def from_kept(self) -> None:
        if self.path not in self.proxy.kept:
            del self.headers["Range"]  # the same request, for all of it
            self.proxy.kept[self.path] = self.forwarded(b"")[2]
        whole = self.proxy.kept[self.path]
        first, _, last = self.range.partition("-")
        part = whole[int(first) : int(last) + 1]
        self.reply(206, {"Content-Range": f"bytes {first}-{last}/{len(whole)}"}, part)

    def parse_request(self) -> bool:
        parsed = super().parse_request()
        self.range = self.headers.get("Range", "").removeprefix("bytes=") if parsed else ""
        return parsed

    def reply(self, status: int, headers: dict[str, str], content: bytes, fault: str = "") -> None:
        if fault == "corrupt":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if fault == "truncate":
            content, self.close_connection = content[: len(content) // 2], True
        with self.proxy.lock:  # before it is sent: whoever has it finds it counted
            self.proxy.counts[self.command] += 1
            self.proxy.counts["bytes"] += len(content) * (self.command == "GET")
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:  # noqa: ANN401
        pass


@contextmanager
def object_store() -> Iterator[tuple[Proxy, dict[str, str]]]:
    """Serve an S3 with a bucket `bucket`; give its proxy, and the environment variables by which it is found."""
    import logging

    import fsspec
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    proxy = Proxy(server.get_host_and_port()[1])
    urlopen(f"http://127.0.0.1:{proxy.port}/moto-api/reset", b"").close()  # what it holds outlives it
    credentials = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "geheim", "AWS_DEFAULT_REGION": "us-east-1"}
    try:
        with proxy.served() as url:
            made = {"key": "testing", "secret": "geheim", "endpoint_url": url, "skip_instance_cache": True}
            fsspec.filesystem("s3", **made).mkdir("bucket")
            fsspec.get_filesystem_class("s3").clear_instance_cache()  # which may know another server
            yield proxy, {**credentials, "AWS_ENDPOINT_URL": url}
    finally:
        server.stop()


if __name__ == "__main__":
    with object_store() as (_, variables):
        print(*(f"export {name}={value}" for name, value in variables.items()), sep="\n", flush=True)  # noqa: T201
        while True:
            time.sleep(3600)
