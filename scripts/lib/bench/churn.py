"""Owns changes of a router's Server List, told to it as management tells them: one program is another every second. Must not
know what is measured meanwhile."""

import copy
import datetime
import http.client
import json
import threading

from rig import Trouble

EVERY = 1.0


class Changes:
    """`with` it, the list changes every second."""

    def __init__(self, control, held):
        self.control, self.held = control, held
        self.sent, self.failure = 0, None

    def __enter__(self):
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.go_on)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        if self.failure:
            raise Trouble(f"the router took no Server List: {self.failure}")

    def go_on(self):
        while True:
            try:
                self.change()
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.failure = error
                return
            if self.over.wait(EVERY):
                return

    def change(self):
        """One program's placement has moved on by a generation."""
        before = copy.deepcopy(self.held["stamp"])
        self.held["stamp"]["revision"] += 1
        program = self.held["programs"][self.sent % len(self.held["programs"])]
        for placement in program["placements"]:
            placement["generation"] += 1
        change = {**self.held, "since": before, "programs": [program], "servers": [], "removed": []}
        answer = self.tell({"type": "server_list", **change})
        if answer.get("held") != self.held["stamp"]:
            raise ValueError(f"it holds {answer}")
        self.sent += 1

    def tell(self, body):
        stamp = self.held["stamp"]
        envelope = {
            "id": f"bench-{stamp['revision']}",
            "from": stamp["term"]["management"],
            "run": "bench",
            "term": stamp["term"],
            "sent_at": datetime.datetime.now(datetime.timezone.utc).isoformat(),
            "body": body,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.control, timeout=5)
        try:
            connection.request("POST", "/node/v1/messages", json.dumps(envelope), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                raise ValueError(said.decode(errors="replace"))
            return json.loads(said)
        finally:
            connection.close()
