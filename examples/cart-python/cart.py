"""cart: a shop's cart that is kept in neap's session data, with nothing but Python's standard library.

GET  /           the cart of this session
GET  /healthz    200
POST /items      puts the item named by X-Post-Id into the cart
POST /checkout   empties the cart

Nothing of a session is in this process: a request's session is loaded, changed, and written back, so that the next
request may be answered by any server, at any version. Of neap it knows the session's id in a request, `Neap-Session`,
and where its data is, `NEAP_SESSION_URL`.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

VERSION = os.environ.get("NEAP_VERSION", "0")
SERVER = os.environ.get("NEAP_NODE", "")
BODY_BYTES_MAX = 1024 * 1024
ITEMS_MAX = 10_000
TRIES_MAX = 20
GRACE_SECONDS = 30


class SessionEnded(Exception):
    """The session is not there any more; what was to be kept in it has no place."""


class Sessions:
    """The session data that neap keeps: one document a session."""

    def __init__(self, url):
        self.url = urlsplit(url)

    def load(self, session):
        """The document and its tag; (None, None) where there is none yet."""
        status, headers, body = self.ask("GET", session)
        if status == 404:
            return None, None
        return json.loads(body), headers["ETag"]

    def save(self, session, document, tag):
        """False: somebody else has written since `tag` was read."""
        condition = {"If-Match": tag} if tag else {"If-None-Match": "*"}
        status, _, _ = self.ask("PUT", session, json.dumps(document).encode(), condition)
        if status == 404:
            raise SessionEnded
        return status != 412

    def clear(self, session):
        self.ask("DELETE", session)

    def ask(self, method, session, body=None, headers=None):
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=30)
        try:
            connection.request(method, f"{self.url.path}/{session}", body, headers or {})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status >= 400 and answer.status not in (404, 412):
            raise OSError(f"{method} of session data: {answer.status} {body.decode(errors='replace')}")
        return answer.status, answer.headers, body


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address, sessions):
        self.sessions = sessions
        self.ending = threading.Event()
        self.under_way = 0
        self.changed = threading.Condition()
        super().__init__(address, Handler)

    def count(self, more):
        with self.changed:
            self.under_way += more
            self.changed.notify_all()

    def wait_for_requests(self):
        with self.changed:
            self.changed.wait_for(lambda: self.under_way == 0, timeout=GRACE_SECONDS)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 120
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
                self.server.count(-1)

    def parse_request(self):
        # Counted from the first line on, so that TERM waits for what has begun.
        self.server.count(1)
        self.counted = True
        return super().parse_request()

    def do_GET(self):
        path = urlsplit(self.path).path
        if path == "/healthz":
            self.answer(200, {"ok": True})
        elif path == "/":
            self.in_session(self.show)
        else:
            self.answer(404, {"error": "no such page"})

    def do_POST(self):
        length = int(self.headers.get("Content-Length", "0"))
        if self.headers.get("Transfer-Encoding") or not 0 <= length <= BODY_BYTES_MAX:
            self.close_connection = True
            self.answer(413, {"error": "the body has a length, of 1 MiB at the most"})
            return
        self.rfile.read(length)
        path = urlsplit(self.path).path
        if path == "/items":
            self.in_session(self.add)
        elif path == "/checkout":
            self.in_session(self.check_out)
        else:
            self.answer(404, {"error": "no such page"})

    def in_session(self, act):
        session = self.headers.get("Neap-Session")
        if not session:
            self.answer(500, {"error": "no Neap-Session in this request: [session] policy is shared or sticky"})
            return
        try:
            act(session)
        except SessionEnded:
            self.answer(410, {"error": "this session has ended"})
        except OSError as error:
            self.answer(502, {"error": str(error)})

    def show(self, session):
        cart, _ = self.server.sessions.load(session)
        self.answer(200, cart or {"items": []}, cart)

    def add(self, session):
        name = self.headers.get("X-Post-Id", "-")
        for attempt in range(TRIES_MAX):
            cart, tag = self.server.sessions.load(session)
            cart = cart or {"id": str(uuid.uuid4()), "items": []}
            if len(cart["items"]) >= ITEMS_MAX:
                self.answer(409, {"error": "the cart is full"}, cart)
                return
            cart["items"].append(name)
            if self.server.sessions.save(session, cart, tag):
                self.answer(200, {"added": name, "items": len(cart["items"])}, cart, {"X-Post-Id": name})
                return
            # Another request of this session was faster: what it wrote is read, and added to.
            time.sleep(0.005 * attempt)
        self.answer(409, {"error": "the session is written to by too many"})

    def check_out(self, session):
        cart, _ = self.server.sessions.load(session)
        self.server.sessions.clear(session)
        self.answer(200, {"bought": len(cart["items"]) if cart else 0})

    def answer(self, status, document, cart=None, headers=None):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Version", VERSION)
        self.send_header("X-Server", SERVER)
        if self.headers.get("X-Traffic-Id"):
            self.send_header("X-Traffic-Id", self.headers["X-Traffic-Id"])
        if cart:
            self.send_header("X-Session-Id", cart["id"])
            self.send_header("X-Session-Items", str(len(cart["items"])))
            self.send_header("X-Session-Last", cart["items"][-1])
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.server.ending.is_set():
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "0")))
    args = parser.parse_args()
    url = os.environ.get("NEAP_SESSION_URL")
    if not url:
        sys.exit("cart: NEAP_SESSION_URL is not set: neap sets it for programs with [session] policy shared or sticky")
    server = Server(("127.0.0.1", args.port), Sessions(url))

    def end(*_):
        server.ending.set()
        # shutdown() waits for the loop that this signal interrupted.
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    print(f"cart {VERSION} listens on 127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever(poll_interval=0.05)
    server.socket.close()
    server.wait_for_requests()


if __name__ == "__main__":
    main()
