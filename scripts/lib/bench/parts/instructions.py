"""user instructions per request and hop, by callgrind: repeatable, so a gate

A router alone, a server alone, and one node that is both, each with one worker under valgrind, each asked for an exact number
of requests twice, 10,000 and 30,000: 1 KiB answers, a browser's headers, connections kept. The difference of the two counts of
the thread that answers, by the difference of the requests, is what a request costs. Before, the node is left alone until what it
does after its start is done; what that thread does unasked then, such as to look at the time, is taken off by time, for under
valgrind a request has fifty times as much of it.

--check ends with 1 if one of them is above its goal. On a busy machine fewer requests come at once, and each costs a little more.
"""

import pathlib
import shutil
import time

import areas
import callgrind
import client
import nodes
import rig
import upstream

GOAL = 16_000
# Requests of the two runs, and those before: buffers and pools are then as they stay.
LESS, MORE = 10_000, 30_000
QUICK = (1_000, 4_000)
WARM_UP = 1_000
# Seconds of one look at a node that is asked nothing, and how many looks it has to come to rest.
REST, RESTS = 3, 20
# It is at rest when it does no more than this, or hardly less than at the look before, by the second.
REST_MOST, REST_AGAIN = 100_000, 0.8
CONNECTIONS = 16
NODE_CPU, REST_CPU = 0, 1
NAMES = {"router": "router alone", "server": "server alone", "node": "router and server in one node"}
# What a router adds to a request on its way to a server.
FROM_ROUTER = {
    "X-Forwarded-For": "127.0.0.1",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": client.HOST,
    "X-Request-Id": "01kaz2v5nq8r3t7w9x1y3z5b7d",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "Neap-Program": nodes.PROGRAM,
}


def options(parser):
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(NAMES)}; without one, all of them")
    parser.add_argument("--check", action="store_true", help=f"end with 1 if one is above {GOAL}")
    parser.add_argument("--allow", type=float, default=0, metavar="PERCENT", help="that --check lets be above it")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK[0]:,} and {QUICK[1]:,} requests, which tells the same to 2 %%")
    parser.add_argument("--profile", metavar="DIR", help="tell here where they go: callgrind's files, for callgrind_annotate, and a table by areas")


def run(args):
    unknown = [kind for kind in args.kinds if kind not in NAMES]
    if unknown:
        raise rig.Trouble(f"there is no {unknown[0]}; there are {', '.join(NAMES)}")
    prepare()
    binary = rig.neap_binary(args.neap)
    over = 0
    for kind in args.kinds or NAMES:
        count = measure(kind, binary, args.first_port, QUICK if args.quick else (LESS, MORE), args.profile)
        holds = count <= GOAL
        over += count > GOAL * (1 + args.allow / 100)
        print(f"{NAMES[kind]:30} {count:9,.0f} a request   goal {GOAL:,}   {'holds' if holds else 'does not hold'}", flush=True)
    return 1 if args.check and over else 0


def prepare():
    rig.need({"valgrind": "valgrind", "nginx": "nginx", "taskset": "util-linux"})


def measure(kind, binary, first_port, requests=(LESS, MORE), profile=None, change=None, sessions=None):
    """Instructions per request; with a policy of `sessions`, each request is of one session."""
    with rig.Rig(first_port) as place:
        folder = place.folder("counts")
        wrapper = [*callgrind.wrapper(folder), callgrind.binary(binary, folder)]
        neap = nodes.Neap(place, binary, workers=1)
        headers = {}
        if kind == "router":
            process, port = neap.router("router", upstream.start(place, REST_CPU), NODE_CPU, change, wrapper)
        elif kind == "server":
            process, port = neap.server("server", NODE_CPU, REST_CPU, wrapper, sessions)
            headers = FROM_ROUTER
        else:
            process, port = neap.both("node", NODE_CPU, REST_CPU, wrapper, sessions)
        if sessions:
            headers = {**headers, "Cookie": f"{client.BROWSER['Cookie']}; {client.cookie(port, headers)}"}
        counts, request = callgrind.Counts(folder, process), client.request(headers=headers)
        with client.Client(port, CONNECTIONS) as clients:
            clients.send(WARM_UP, request, upstream.SIZES["/"])
            at_rest = rest(counts)
            looks, seconds = [], []
            for count in requests:
                begin = time.monotonic()
                clients.send(count, request, upstream.SIZES["/"])
                looks.append(counts.look())
                seconds.append(time.monotonic() - begin)
            worker = callgrind.busiest(looks)
            taken = [look[worker][0] - at_rest.get(worker, 0) * each for look, each in zip(looks, seconds)]
            path = looks[1][worker][1]
        if profile:
            keep(pathlib.Path(profile), kind, path, requests[1])
        return (taken[1] - taken[0]) / (requests[1] - requests[0])


def rest(counts):
    """Waits until what a node does after its start is done; what its threads go on to do unasked, in instructions a second."""
    counts.look()
    before = None
    for _ in range(RESTS):
        begin = time.monotonic()
        time.sleep(REST)
        look, seconds = counts.look(), time.monotonic() - begin
        rates = {thread: count / seconds for thread, (count, _) in look.items()}
        rate = sum(rates.values())
        if rate < REST_MOST or (before is not None and rate > before * REST_AGAIN):
            return rates
        before = rate
    raise rig.Trouble(f"the node does not come to rest: {rate:,.0f} instructions a second unasked")


def keep(folder, kind, path, requests):
    """Callgrind's own file, and what it comes to by areas."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, folder / f"callgrind.{kind}")
    with open(path, errors="replace") as lines:
        told = areas.table(areas.counts(line.rstrip("\n") for line in lines), requests)
    (folder / f"areas.{kind}").write_text(told)
