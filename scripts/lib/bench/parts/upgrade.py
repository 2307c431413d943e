"""what an upgrade costs: the program's own answers, its neighbours', and the time that a server is out of service

Four servers and ten programs, all on this machine. Each instance has a fixed capacity that CPU freed elsewhere cannot hide: so
many slots, in each of which a request sleeps. Every program is offered more than its instances can answer, open loop; what does
not fit is turned away by the program at once, and is no answer. Then one program is upgraded, again and again, and the answers
a second of it and of the other nine are set against their steady state of the seconds before: by quiesce, by overlap, and, where
this binary has it, by `--scope server`, the prior art, which takes whole servers out.

Answers are counted by the programs themselves. The machine has to be able to drive the load: see --sleep-ms.
Ends with 0 when everything was measured, whether or not the goals hold.
"""

import statistics
import subprocess
import time

import results
import rig
from nodes import Neap

SERVERS, PROGRAMS = 4, 10
SLOTS, SLEEP_MS = 4, 20
OFFERED = 1.2
STEADY_S = 5
KINDS = {"quiesce": ["--strategy", "quiesce"], "overlap": ["--strategy", "overlap"], "server": ["--scope", "server"]}

# Notes, by the machine's monotonic clock: how many answers it has given, ten times a second; and when it began, listened, gave
# its first and its last answer, was told to end, and ended.
SERVICE = r"""
import asyncio, os, signal, sys, time
ticks = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19])
slots, sleep, data = int(sys.argv[1]), float(sys.argv[2]) / 1000, sys.argv[3]
busy, answers, out, last = 0, 0, open(f"{data}/answers-{os.getpid()}", "w", buffering=1), None
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FULL = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"

def note(what, at=None):
    print(what, f"{at or time.monotonic():.4f}", answers, file=out)

class Service(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.seen = transport, b""
    def data_received(self, data):
        self.seen += data
        while b"\r\n\r\n" in self.seen:
            head, self.seen = self.seen.split(b"\r\n\r\n", 1)
            self.transport.write(OK) if b" /healthz " in head else self.take()
    def take(self):
        global busy
        if busy >= slots:
            return self.transport.write(FULL)
        busy += 1
        asyncio.get_running_loop().call_later(sleep, self.done)
    def done(self):
        global busy, answers, last
        busy, answers, last = busy - 1, answers + 1, time.monotonic()
        if answers == 1:
            note("first")
        self.transport.write(OK)

async def main():
    loop, end = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, end.set)
    await loop.create_server(Service, "127.0.0.1", int(os.environ["PORT"]))
    note("began", ticks / 100)
    note("listens")
    while not end.is_set():
        note("at")
        try:
            await asyncio.wait_for(end.wait(), 0.1)
        except TimeoutError:
            pass
    note("told")
    note("last", last)
asyncio.run(main())
note("ended")
"""


def options(parser):
    parser.add_argument("--json", metavar="FILE", help="write [{name, value, goal, holds, detail}] to this file")
    parser.add_argument("--sleep-ms", type=int, default=SLEEP_MS, metavar="N", help=f"that a request takes in its slot ({SLEEP_MS})")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="upgrades of each kind (5: 20 steps, of which medians are)")
    parser.add_argument("--quick", action="store_true", help="one upgrade of each kind: whether it works, no figures")


def run(args):
    binary, rounds = rig.neap_binary(args.neap), 1 if args.quick else args.rounds
    found = []
    with rig.Rig(args.first_port) as place:
        cluster = Cluster(place, binary, args.sleep_ms)
        cluster.start()
        measured = {}
        for kind, options_of in KINDS.items():
            if kind == "server" and not cluster.has_scope():
                rig.say("== server: this binary has no --scope server yet; the prior art is not measured")
                continue
            rig.say(f"== {kind}")
            measured[kind] = [cluster.upgrade(options_of) for _ in range(rounds)]
        found = list(told(measured, cluster))
    for result in found:
        rig.say(f"   {result.name}: {results.show(result.value, result.unit)} ({result.detail})")
    if args.json:
        results.write(args.json, found)
    print(results.table(found))
    return 0


class Cluster:
    """Four servers, a router and management, ten programs, and a load at each."""

    def __init__(self, place, binary, sleep_ms):
        self.place, self.binary, self.sleep_ms, self.version = place, binary, sleep_ms, 0
        self.neap = Neap(place, binary)
        self.offers = []

    def start(self):
        self.management = self.neap.management("management")
        at = {"cluster.management": f'["http://127.0.0.1:{self.management}"]'}
        self.http, control = self.place.port(), self.place.port()
        router = {"router.http": f"127.0.0.1:{self.http}", "router.control": f"127.0.0.1:{control}", **at}
        nodes = [(self.neap.node("router", "router", router, None, self.http), "router")]
        for number in range(SERVERS):
            data, control = self.place.port(), self.place.port()
            ports = [self.place.port() for _ in range(2 * PROGRAMS + 4)]
            settings = {
                "app_server.data": f"127.0.0.1:{data}",
                "app_server.control": f"127.0.0.1:{control}",
                "app_server.ports": f"{ports[0]}-{ports[-1]}",
                **at,
            }
            nodes.append((self.neap.node(f"server-{number}", "app-server", settings, None, data), "app-server"))
        for process, role in nodes:
            self.neap.await_up(self.management, process, role)
        for program in range(PROGRAMS):
            self.deploy(f"p{program}", "0", [])
        rate = OFFERED * SERVERS * SLOTS * 1000 / self.sleep_ms
        for program in range(PROGRAMS):
            url = f"http://127.0.0.1:{self.http}/p{program}/"
            argv = [self.binary, "traffic", url, "--rate", f"{rate:.1f}", "--duration", "24h"]
            self.offers.append(self.place.start(f"traffic-{program}", argv))
        time.sleep(STEADY_S)

    def release(self, program, version):
        into = self.place.folder(f"releases/{program}-{version}")
        (into / "service.py").write_text(SERVICE)
        command = f'["python3", "service.py", "{SLOTS}", "{self.sleep_ms}", "{{data}}"]'
        (into / "program.toml").write_text(
            f'name = "{program}"\nversion = "{version}"\nroutes = ["*/{program}"]\n[process]\ncommand = {command}\n'
            '[health]\npath = "/healthz"\n[upgrade]\nsoak = "0s"\nmax_utilization = 0\n'
        )
        return into

    def deploy(self, program, version, how):
        release = self.release(program, version)
        self.neap.ask(self.management, "--quiet", "deploy", release, "--yes", *how)

    def has_scope(self):
        ran = subprocess.run([self.binary, "upgrade", "--help"], capture_output=True, text=True)
        return "--scope" in ran.stdout

    def upgrade(self, how):
        """Upgrades the first program; answers what came of it."""
        self.version += 1
        steady_from = time.monotonic()
        time.sleep(STEADY_S)
        begun = time.monotonic()
        self.deploy("p0", str(self.version), how)
        ended = time.monotonic()
        time.sleep(1)
        notes = {f"p{program}": self.notes(f"p{program}") for program in range(PROGRAMS)}
        kept = {
            program: rate(of, begun, ended) / max(rate(of, steady_from, begun), 0.001) for program, of in notes.items()
        }
        others = [share for program, share in kept.items() if program != "p0"]
        return {"own": kept["p0"], "others": statistics.mean(others), "beyond": self.beyond(notes["p0"], begun, ended)}

    def notes(self, program):
        """What each instance has noted: lists of (what, when, answers), by server and process."""
        found = {}
        for path in self.place.dir.glob(f"server-*/data/{program}/answers-*"):
            lines = [line.split() for line in path.read_text().splitlines()]
            server = path.relative_to(self.place.dir).parts[0]
            noted = [(line[0], float(line[1]), int(line[2])) for line in lines if len(line) == 3]
            found[server, path.name] = noted
        return found

    def beyond(self, notes, begun, ended):
        """Of each server: what lay between the old instance's last answer and the new one's first beside the program's own
        stop and start, in shares of these two. None of an overlap, where nothing lies between."""
        shares = []
        for server in sorted({server for server, _ in notes}):
            of = [dict((what, at) for what, at, _ in noted) for (at_server, _), noted in notes.items() if at_server == server]
            old = [noted for noted in of if begun <= noted.get("told", 0) <= ended + 1 and "ended" in noted]
            new = [noted for noted in of if begun <= noted.get("began", 0) <= ended and "first" in noted]
            if len(old) == 1 and len(new) == 1 and new[0]["began"] >= old[0]["ended"] - 0.02:
                own = (old[0]["ended"] - old[0]["told"]) + (new[0]["listens"] - new[0]["began"])
                between = new[0]["first"] - self.sleep_ms / 1000 - old[0]["last"]
                shares.append((between - own) / own)
        return shares


def rate(notes, begun, ended):
    """Answers a second between two moments, over all instances."""
    answers = 0
    for noted in notes.values():
        inside = [count for what, at, count in noted if begun <= at <= ended and what != "last"]
        before = [count for what, at, count in noted if at < begun and what != "last"]
        if inside:
            answers += max(inside) - (max(before) if before else 0)
    return answers / (ended - begun)


def told(measured, cluster):
    shape = f"{SERVERS} servers × {PROGRAMS} programs, {SLOTS} slots × {cluster.sleep_ms} ms, offered {OFFERED}"
    for kind, rounds in measured.items():
        others, own = [one["others"] for one in rounds], [one["own"] for one in rounds]
        goal = 0.99 if kind != "server" else 0.75
        name = "the other nine" if kind != "server" else "the other nine, prior art"
        yield results.Result(f"{kind}: {name}", statistics.median(others), goal, most=False, detail=f"{results.spread(others, digits=3)}; {shape}")
        if kind == "overlap":
            yield results.Result("overlap: its own", statistics.median(own), 0.99, most=False, detail=results.spread(own, digits=3))
        elif kind == "quiesce":
            beyond = [share for one in rounds for share in one["beyond"]]
            if beyond:
                detail = f"{results.spread(beyond, 100)} % of {len(beyond)} steps; its own answers meanwhile {results.spread(own, digits=3)}"
                yield results.Result("quiesce: out of service beyond the program's own stop and start", statistics.median(beyond), 0.10, detail=detail)
