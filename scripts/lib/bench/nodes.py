"""Owns neap's nodes as they are measured: a router alone, a server alone, both of them, or one node with both roles. All as
shipped; only addresses, the number of workers where one is named, and the log differ from the defaults."""

import copy
import json
import subprocess

import rig
import upstream

PROGRAM = "bench"
# A node under valgrind is slow to start.
START_WITHIN = 300


class Neap:
    """The binary, and how its nodes are started in a place."""

    # A Server List of each binary's making, which is the same in every place.
    templates = {}

    def __init__(self, place, binary, workers=None):
        self.place, self.binary, self.workers = place, binary, workers

    def node(self, name, roles, settings, cpu, port, wrapper=()):
        workers = {"node.workers": self.workers} if self.workers else {}
        settings = {"node.name": name, "node.data_dir": self.place.folder(name), "observe.log": "warn", **workers, **settings}
        argv = [*(wrapper or [self.binary]), "run", "--role", roles]
        for key, value in settings.items():
            argv += ["--set", f"{key}={value}"]
        return self.place.start(name, argv, cpu, port, START_WITHIN)

    def ask(self, management, *args):
        """Runs a command of neap's against management at this port; its output."""
        argv = [self.binary, "--address", f"http://127.0.0.1:{management}", "--timeout", "120s", *args]
        ran = subprocess.run([str(arg) for arg in argv], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if ran.returncode != 0:
            raise rig.Trouble(f"neap {' '.join(map(str, args))} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
        return ran.stdout

    def management(self, name):
        port = self.place.port()
        self.node(name, "management", {"management.listen": f"127.0.0.1:{port}"}, None, port)
        return port

    def await_up(self, management, process, *roles):
        """Waits until management knows this node in all of its roles."""

        def is_up():
            listed = map(json.loads, self.ask(management, "--output", "ndjson", "node", "ls").splitlines())
            ours = [node for node in listed if node["name"] == process.name and node["state"] == "up"]
            return any(set(roles) <= set(node["roles"]) for node in ours)

        process.wait_until(is_up, START_WITHIN, "is not known to management")

    def deploy(self, management, cpu, sessions=None, lean=False):
        """The program whose instances are the upstream, on its core; `sessions`: its policy."""
        self.ask(management, "--quiet", "deploy", upstream.release(self.place, PROGRAM, cpu, sessions, lean), "--yes")

    def server_list(self):
        """A Server List of one program on one server, as a router keeps it on disk. Taken from a real cluster, once."""
        if self.binary in self.templates:
            return copy.deepcopy(self.templates[self.binary])
        http, listen, control = self.place.port(), self.place.port(), self.place.port()
        settings = {
            "management.listen": f"127.0.0.1:{listen}",
            "router.http": f"127.0.0.1:{http}",
            "router.control": f"127.0.0.1:{control}",
            **self.server_settings()[0],
            "cluster.management": f'["http://127.0.0.1:{listen}"]',
        }
        node = self.node("template", "router,app-server,management", settings, None, http)
        self.await_up(listen, node, "router", "app-server")
        self.deploy(listen, 0)
        with open(self.place.dir / "template" / "server-list.json") as file:
            self.templates[self.binary] = json.load(file)
        node.stop()
        self.place.stop_strays(self.place.dir / "template")
        return self.server_list()

    def router(self, name, servers_port, cpu, change=None, wrapper=()):
        """A router without management, which goes on with the Server List of its last run: what it takes to be a server is
        whatever listens on `servers_port`. Answers the process and its port."""
        held = self.server_list()
        held["servers"][0]["data"] = f"127.0.0.1:{servers_port}"
        if change:
            change(held)
        path = self.place.folder(name) / "server-list.json"
        path.write_text(json.dumps(held))
        http, control, nobody = self.place.port(), self.place.port(), self.place.port()
        settings = {
            "router.http": f"127.0.0.1:{http}",
            "router.control": f"127.0.0.1:{control}",
            "cluster.management": f'["http://127.0.0.1:{nobody}"]',
        }
        process = self.node(name, "router", settings, cpu, http, wrapper)
        process.control = control
        return process, http

    def held_by(self, name):
        """The Server List that the router of this name started with."""
        return json.loads((self.place.folder(name) / "server-list.json").read_text())

    def server_settings(self):
        data, control, instances = self.place.port(), self.place.port(), [self.place.port() for _ in range(4)]
        settings = {
            "app_server.data": f"127.0.0.1:{data}",
            "app_server.control": f"127.0.0.1:{control}",
            "app_server.ports": f"{instances[0]}-{instances[-1]}",
        }
        return settings, data

    def server(self, name, cpu, instances_cpu, wrapper=(), sessions=None):
        """A server whose program is nginx, with the management that deployed it."""
        management = self.management(f"{name}-management")
        settings, data = self.server_settings()
        settings["cluster.management"] = f'["http://127.0.0.1:{management}"]'
        process = self.node(name, "app-server", settings, cpu, data, wrapper)
        self.await_up(management, process, "app-server")
        self.deploy(management, instances_cpu, sessions)
        return process, data

    def both(self, name, cpu, instances_cpu, wrapper=(), sessions=None, lean=False):
        """One node with both roles: router and server."""
        management = self.management(f"{name}-management")
        settings, _ = self.server_settings()
        http, control = self.place.port(), self.place.port()
        settings |= {
            "router.http": f"127.0.0.1:{http}",
            "router.control": f"127.0.0.1:{control}",
            "cluster.management": f'["http://127.0.0.1:{management}"]',
        }
        process = self.node(name, "router,app-server", settings, cpu, http, wrapper)
        self.await_up(management, process, "router", "app-server")
        self.deploy(management, instances_cpu, sessions, lean)
        return process, http


def several(count, routes_each):
    """Changes a Server List to hold so many programs in place of one, each with so many routes; the one that is asked for
    keeps its own."""

    def change(held):
        [program] = held["programs"]
        others = []
        for number in range(count - 1):
            other = copy.deepcopy(program)
            manifest = other["manifest"]
            manifest["name"] = f"other-{number}"
            manifest["routes"] = [
                {"host": f"{part}.other-{number}.example.com", "prefix": f"/other-{number}/{part}"} for part in range(routes_each)
            ]
            others.append(other)
        routes = program["manifest"]["routes"]
        routes += [{"host": None, "prefix": f"/bench/{part}"} for part in range(routes_each - len(routes))]
        held["programs"] = sorted([program, *others], key=lambda each: each["manifest"]["name"])

    return change


def version(binary):
    return rig.first_line([binary, "--version"])
