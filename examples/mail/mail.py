"""mail: a small program to upgrade, with nothing but Python's standard library.

GET  /            JSON: program and version
GET  /healthz     200
POST /letters     logs "id bytes" once per execution, answers id, bytes and SHA-256 of what it received
GET  /slow?ms=N   answers after N milliseconds

On TERM it takes no new connections, finishes the requests under way and ends.
"""

import argparse
import hashlib
import json
import os
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

BODY_BYTES_MAX = 64 * 1024 * 1024
WAIT_MS_MAX = 120_000
IDLE_SECONDS_MAX = 120
GRACE_SECONDS = 30
VERSION = os.environ.get("NEAP_VERSION", "0")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address, log):
        self.log = log
        self.ending = threading.Event()
        self.under_way = 0
        self.changed = threading.Condition()
        super().__init__(address, Handler)

    def begin(self):
        with self.changed:
            self.under_way += 1

    def end(self):
        with self.changed:
            self.under_way -= 1
            self.changed.notify_all()

    def wait_for_requests(self):
        with self.changed:
            self.changed.wait_for(lambda: self.under_way == 0, timeout=GRACE_SECONDS)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS_MAX
    # One write an answer: head and body together.
    wbufsize = -1

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle_one_request(self):
        self.counted = False
        try:
            super().handle_one_request()
        finally:
            if self.counted:
                self.server.end()

    def parse_request(self):
        # Counted from the first line on, so that TERM waits for what has begun.
        self.server.begin()
        self.counted = True
        return super().parse_request()

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/":
            self.answer(200, {"program": "mail", "version": VERSION})
        elif url.path == "/healthz":
            self.answer(200, {"ok": True})
        elif url.path == "/slow":
            wait = min(int(parse_qs(url.query).get("ms", ["1000"])[0]), WAIT_MS_MAX)
            time.sleep(wait / 1000)
            self.answer(200, {"waited_ms": wait})
        else:
            self.answer(404, {"error": "no such page"})

    def do_POST(self):
        body = self.read_body()
        if body is None:
            self.close_connection = True
            self.answer(400, {"error": "the body is not whole, or too large"})
        elif urlsplit(self.path).path != "/letters":
            self.answer(404, {"error": "no such page"})
        else:
            name = self.headers.get("X-Post-Id", "-")
            # One write to a file opened for appending: a line is whole or not there.
            os.write(self.server.log, f"{name} {len(body)}\n".encode())
            digest = hashlib.sha256(body).hexdigest()
            self.answer(200, {"letter": name, "bytes": len(body)}, {"X-Post-Id": name, "X-Body-Sha256": digest})

    def read_body(self):
        """The body by its length or its chunks; None when it is not whole."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self.read_chunks()
        length = int(self.headers.get("Content-Length", "0"))
        if not 0 <= length <= BODY_BYTES_MAX:
            return None
        body = self.rfile.read(length)
        return body if len(body) == length else None

    def read_chunks(self):
        body = bytearray()
        while len(body) <= BODY_BYTES_MAX:
            line = self.rfile.readline(1024)
            if not line.endswith(b"\r\n"):
                return None
            size = int(line.split(b";")[0], 16)
            if size == 0:
                while self.rfile.readline(65536).strip():
                    pass
                return bytes(body)
            body += self.rfile.read(size)
            if self.rfile.read(2) != b"\r\n":
                return None
        return None

    def answer(self, status, document, headers=None):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Version", VERSION)
        if self.headers.get("X-Traffic-Id"):
            self.send_header("X-Traffic-Id", self.headers["X-Traffic-Id"])
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.server.ending.is_set():
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "0")))
    parser.add_argument("--log", default=os.environ.get("MAIL_LOG", "/dev/stdout"))
    args = parser.parse_args()
    log = os.open(args.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    server = Server(("127.0.0.1", args.port), log)

    def end(*_):
        server.ending.set()
        # shutdown() waits for the loop that this signal interrupted.
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    print(f"mail {VERSION} listens on 127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever(poll_interval=0.05)
    server.socket.close()
    server.wait_for_requests()


if __name__ == "__main__":
    main()
