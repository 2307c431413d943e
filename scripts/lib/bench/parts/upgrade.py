"""what an upgrade costs: the program's own answers, its neighbours', and the time that a server is out of service

Four servers and ten programs, all on this machine. Each instance has a fixed capacity that CPU freed elsewhere cannot hide: so
many slots, in each of which a request sleeps. Every program is offered more than its instances can answer, open loop; what does
not fit is turned away by the program at once, and is no answer. Then one program is upgraded, again and again, and the answers
a second of it and of the other nine are set against their steady state of the seconds before: by quiesce, by overlap, and, where
this binary has it, by `--scope server`, the prior art, which takes whole servers out.

Answers are counted by the programs themselves (service.rs), which take a known time to start and to stop, waiting, as a small
service of an interpreted language does. Out of service is the time between a server's last answer of the old version and the
first request to the new one. What of it is not the program's own stop (from the signal to its end) and start (from its first
instruction to its listening) is neap's: the round trips, the flushes, the launcher, the probes, and the routers' hearing of it.

The machine has to be able to drive the load, or the figures are void: see --sleep-ms. Cores that are busy are told, by kind.
Ends with 0 when everything was measured, whether or not the goals hold.
"""

import bisect
import collections
import itertools
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import time

import results
import rig
from nodes import Neap

SERVERS, PROGRAMS = 4, 10
SLOTS, SLEEP_MS = 4, 20
START_MS, STOP_MS = 300, 100
OFFERED = 1.2
STEADY_S = 5
# Requests of a program come at even intervals, so many of them in the time that a request sleeps; a slot that is free again waits for
# the next. This part of their time the slots can be full at the most.
ARRIVALS = OFFERED * SERVERS * SLOTS
REACHABLE = ARRIVALS / math.ceil(ARRIVALS)
# Of what can be reached, what the programs have to answer in their steady state for the figures to count.
DRIVEN = 0.95
# Connections that each program's load is sent over, all routers' together: it has at most so many requests under way.
CONNECTIONS = 64
KINDS = {"quiesce": ["--strategy", "quiesce"], "overlap": ["--strategy", "overlap"], "server": ["--scope", "server"]}
# What a process is, by a word of its command line.
PROCESSES = {"./service": "programs", " traffic ": "load", "--role router": "router", "--role app-server": "servers", "--role management": "management"}


def options(parser):
    parser.add_argument("--json", metavar="FILE", help="write [{name, value, goal, holds, detail}] to this file")
    parser.add_argument("--sleep-ms", type=int, default=SLEEP_MS, metavar="N", help=f"that a request takes in its slot ({SLEEP_MS})")
    parser.add_argument("--start-ms", type=int, default=START_MS, metavar="N", help=f"that a program takes to start ({START_MS})")
    parser.add_argument("--stop-ms", type=int, default=STOP_MS, metavar="N", help=f"that a program takes to stop ({STOP_MS})")
    parser.add_argument("--routers", type=int, default=1, metavar="N", help="that share each program's load (1)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="upgrades of each kind (5: 20 steps, of which medians are)")
    parser.add_argument("--quick", action="store_true", help="one upgrade of each kind: whether it works, no figures")


def run(args):
    binary, rounds = rig.neap_binary(args.neap), 1 if args.quick else args.rounds
    found = []
    with rig.Rig(args.first_port) as place:
        cluster = Cluster(place, binary, args)
        cluster.start()
        busy, driven = cluster.steady()
        rig.say(f"== steady: {driven:.0%} of what can be answered is; cores busy: {busy}")
        measured = {}
        for kind, options_of in KINDS.items():
            if kind == "server" and not cluster.has_scope():
                rig.say("== server: this binary has no --scope server yet; the prior art is not measured")
                continue
            rig.say(f"== {kind}")
            measured[kind] = [cluster.upgrade(options_of) for _ in range(rounds)]
        found = list(told(measured, cluster, busy, driven))
    for result in found:
        rig.say(f"   {result.name}: {results.show(result.value, result.unit)} ({result.detail})")
    if args.json:
        results.write(args.json, found)
    print(results.table(found))
    return 0


class Cluster:
    """Four servers, routers and management, ten programs, and a load at each."""

    def __init__(self, place, binary, args):
        self.place, self.binary, self.args, self.version = place, binary, args, 0
        self.sleep_ms = args.sleep_ms
        self.service = rig.compiled("service", place.folder("built"))
        self.neap = Neap(place, binary)
        self.offers = []

    def start(self):
        self.management = self.neap.management("management")
        at = {"cluster.management": f'["http://127.0.0.1:{self.management}"]'}
        doors, nodes = [], []
        for number in range(self.args.routers):
            http, control = self.place.port(), self.place.port()
            router = {"router.http": f"127.0.0.1:{http}", "router.control": f"127.0.0.1:{control}", **at}
            nodes.append((self.neap.node(f"router-{number}", "router", router, None, http), "router"))
            doors.append(http)
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
        rate = OFFERED * SERVERS * SLOTS * 1000 / self.sleep_ms / len(doors)
        for program, http in itertools.product(range(PROGRAMS), doors):
            url = f"http://127.0.0.1:{http}/p{program}/"
            argv = [self.binary, "traffic", url, "--raw", "--rate", f"{rate:.1f}", "--duration", "24h"]
            argv += ["--connections", str(CONNECTIONS // len(doors))]
            self.offers.append(self.place.start(f"traffic-{program}-{http}", argv))
        time.sleep(STEADY_S)

    def release(self, program, version):
        into = self.place.folder(f"releases/{program}-{version}")
        shutil.copy(self.service, into / "service")
        words = [SLOTS, self.sleep_ms, self.args.start_ms, self.args.stop_ms]
        command = '["./service", ' + "".join(f'"{word}", ' for word in words) + '"{data}"]'
        (into / "program.toml").write_text(
            f'name = "{program}"\nversion = "{version}"\nroutes = ["*/{program}"]\n[process]\ncommand = {command}\n'
            '[health]\npath = "/healthz"\n[upgrade]\nsoak = "0s"\nmax_utilization = 0\n'
        )
        return into

    def deploy(self, program, version, how):
        release = self.release(program, version)
        self.neap.ask(self.management, "--quiet", "deploy", release, "--yes", *how)

    def steady(self):
        """How many cores each kind of process keeps busy while nothing is upgraded, and which part of what can be answered
        is."""
        before, begun = busy(), time.monotonic()
        time.sleep(STEADY_S)
        after, ended = busy(), time.monotonic()
        cores = {kind: (after[kind] - before[kind]) / (ended - begun) for kind in after}
        answers = sum(rate(self.notes(f"p{program}"), begun, ended) for program in range(PROGRAMS))
        told = ", ".join(f"{kind} {value:.2f}" for kind, value in sorted(cores.items(), key=lambda of: -of[1]))
        return f"{told} of {os.cpu_count()}", answers / (REACHABLE * PROGRAMS * SERVERS * SLOTS * 1000 / self.sleep_ms)

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
        """Of each server: the seconds of neap's own in which it was out of service, by where they lie, and the program's
        own stop and start. Nothing of an overlap, where nothing lies between."""
        steps = []
        for server in sorted({server for server, _ in notes}):
            of = [dict((what, at) for what, at, _ in noted) for (at_server, _), noted in notes.items() if at_server == server]
            old = [noted for noted in of if begun <= noted.get("told", 0) <= ended + 1 and "ended" in noted]
            new = [noted for noted in of if begun <= noted.get("began", 0) <= ended and "first" in noted]
            if len(old) == 1 and len(new) == 1 and new[0]["began"] >= old[0]["ended"]:
                [old], [new] = old, new
                steps.append({
                    "own": old["ended"] - old["told"] + new["listens"] - new["began"],
                    "to the signal": old["told"] - old["last"],
                    "to the start": new["began"] - old["ended"],
                    "to the first request": new["first"] - new["listens"],
                })
        return steps


def busy():
    """Seconds of CPU that each kind of process has used."""
    used = collections.Counter()
    for pid in rig.pids():
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        kind = next((kind for word, kind in PROCESSES.items() if word in words), "others")
        used[kind] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def rate(notes, begun, ended):
    """Answers a second between two moments, over all instances."""
    answers = sum(answered(noted, ended) - answered(noted, begun) for noted in notes.values())
    return answers / (ended - begun)


def answered(noted, moment):
    """How many answers an instance had given then: between two notes, as if they had come evenly."""
    counts = sorted((at, count) for what, at, count in noted if what != "last")
    after = bisect.bisect_right(counts, moment, key=lambda count: count[0])
    if after == 0:
        return 0
    (before_at, before), (at, count) = counts[after - 1], counts[min(after, len(counts) - 1)]
    return before + (count - before) * ((moment - before_at) / (at - before_at) if at > before_at else 0)


def told(measured, cluster, busy, driven):
    shape = f"{SERVERS} servers × {PROGRAMS} programs, {SLOTS} slots × {cluster.sleep_ms} ms, offered {OFFERED}"
    if cluster.args.routers > 1:
        shape += f", {cluster.args.routers} routers"
    counts = driven >= DRIVEN
    yield results.Result("steady: answered, of what can be", driven, DRIVEN, most=False, detail=f"cores busy: {busy}")
    for kind, rounds in measured.items():
        others, own = [one["others"] for one in rounds], [one["own"] for one in rounds]
        goal = 0.99 if kind != "server" else 0.75
        name = "the other nine" if kind != "server" else "the other nine, prior art"
        yield results.Result(
            f"{kind}: {name}", statistics.median(others), goal, most=False, counts=counts, detail=f"{results.spread(others, digits=3)}; {shape}"
        )
        if kind == "overlap":
            yield results.Result("overlap: its own", statistics.median(own), 0.99, most=False, counts=counts, detail=results.spread(own, digits=3))
        elif kind == "quiesce":
            steps = [step for one in rounds for step in one["beyond"]]
            if steps:
                yield out_of_service(steps, own, counts)


def out_of_service(steps, own, counts):
    """What of the time out of service is neap's own, in shares of the program's stop and start."""
    parts = [part for part in steps[0] if part != "own"]
    shares = [sum(step[part] for part in parts) / step["own"] for step in steps]
    where = ", ".join(f"{part} {statistics.median(step[part] for step in steps) * 1000:.1f}" for part in parts)
    whole = results.spread([sum(step[part] for part in parts) for step in steps], 1000)
    detail = (
        f"{results.spread(shares, 100)} % of {len(steps)} steps: {whole} ms ({where}) beside"
        f" {statistics.median(step['own'] for step in steps) * 1000:.0f} ms of its own; its own answers meanwhile {results.spread(own, digits=3)}"
    )
    name = "quiesce: out of service beyond the program's own stop and start"
    return results.Result(name, statistics.median(shares), 0.10, detail=detail, counts=counts)
