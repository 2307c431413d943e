"""Owns a client that sends an exact number of requests over connections that it keeps, each the moment the one before it is
answered, and checks every answer. Not fast, but exact: for counting instructions and for holding many connections."""

import select
import selectors
import socket

from rig import Trouble

HOST = "shop.example.com"
# What a browser sends with a request for a page.
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding": "gzip, deflate, br",
    "Referer": "http://shop.example.com/catalogue/garden/chairs?page=2",
    "Cookie": "sid=5f0c9a7be2d14c6f8a3b9d2e1c7f4a60; theme=light; consent=necessary",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
    "Cache-Control": "max-age=0",
}
ANSWER_WITHIN = 60


def request(path="/", headers=None):
    """One request's bytes, with a browser's headers and these."""
    fields = {"Host": HOST, **BROWSER, **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode()


def cookie(port, headers):
    """The cookie that one request's answer sets."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_WITHIN) as asked:
        asked.sendall(request(headers={**headers, "Connection": "close"}))
        head = asked.makefile("rb").read().partition(b"\r\n\r\n")[0].decode()
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "set-cookie":
            return value.strip().partition(";")[0]
    raise Trouble(f"no cookie is set: {head!r}")


class Connection:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_WITHIN)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.got = b""

    def ask(self, request):
        self.socket.send(request)

    def wait(self):
        """Until there is something to read."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        if not poll.poll(ANSWER_WITHIN * 1000):
            raise Trouble(f"no answer within {ANSWER_WITHIN} s")

    def answered(self, length):
        """Reads what there is; whether the answer is whole. Anything but a 200 of this length ends the measurement."""
        some = self.socket.recv(256 * 1024)
        self.got += some
        head, end, body = self.got.partition(b"\r\n\r\n")
        if not some or (end and not head.startswith(b"HTTP/1.1 200")) or len(body) > length:
            raise Trouble(f"not the answer that was due: {self.got[:300]!r}")
        if not end or len(body) < length:
            return False
        self.got = b""
        return True


class Client:
    """So many connections to a port."""

    def __init__(self, port, connections):
        self.connections = [Connection(port) for _ in range(connections)]
        self.selector = selectors.DefaultSelector()
        for connection in self.connections:
            self.selector.register(connection.socket, selectors.EVENT_READ, connection)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.selector.close()
        for connection in self.connections:
            connection.socket.close()

    def send(self, count, request, length):
        """Sends `count` requests and waits for their answers, with bodies of `length` bytes."""
        waiting = min(count, len(self.connections))
        left = count - waiting
        for connection in self.connections[:waiting]:
            connection.ask(request)
        while waiting:
            ready = self.selector.select(ANSWER_WITHIN)
            if not ready:
                raise Trouble(f"no answer within {ANSWER_WITHIN} s, {waiting + left} of {count} requests left")
            for key, _ in ready:
                if not key.data.answered(length):
                    continue
                if left:
                    key.data.ask(request)
                    left -= 1
                else:
                    waiting -= 1


class Idle:
    """So many connections, each of which has had one answer and is kept."""

    def __init__(self, port, count, request, length):
        self.connections = []
        try:
            for _ in range(count):
                connection = Connection(port)
                self.connections.append(connection)
                connection.ask(request)
                connection.wait()
                while not connection.answered(length):
                    connection.wait()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for connection in self.connections:
            connection.socket.close()
