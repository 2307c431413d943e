"""Owns the measures of the request's path, one function each, from a setting to its results. A round asks every contender
once, in an order that turns, so that what the machine does meanwhile is everybody's."""

import statistics
import time

import client
import churn
import load
import nodes
import proxies
import rig
import upstream
from parts import instructions
from results import Result, against_the_better, ratios, spread

# The generator's core must have been idle for this much, or what was measured is the generator.
IDLE_LEAST = 0.10
IDLE_CONNECTIONS, IDLE_SECONDS = 5_000, 2
TRAFFIC_CONNECTIONS = 64
PAIRS = 9


class Setting:
    """What is measured, and how long."""

    def __init__(self, binary, generator, first_port, rounds, seconds, quick):
        self.binary, self.generator, self.first_port = binary, generator, first_port
        self.rounds, self.seconds, self.quick = rounds, seconds, quick

    def place(self):
        return rig.Rig(self.first_port)


def three(place, setting, origin):
    """HAProxy, nginx and a router alone, each one hop before the upstream."""
    neap = nodes.Neap(place, setting.binary)
    return [proxies.router(neap, origin), proxies.haproxy(place, "haproxy", origin), proxies.nginx(place, "nginx", origin)]


def rounds(count, contenders, ask):
    """`ask(contender)` for each in turn, after one that is not counted; lists by name, rounds in the same places."""
    for contender in contenders:
        ask(contender)
    found = {contender.name: [] for contender in contenders}
    for number in range(count):
        turn = number % len(contenders)
        for contender in contenders[turn:] + contenders[:turn]:
            found[contender.name].append(ask(contender))
    return found


def split(found, of):
    """neap's figures, and those of the others by name."""
    values = {name: [of(loaded) for loaded in every] for name, every in found.items()}
    return values.pop("neap"), values


def cpu(name, goal, setting, connections, path="/", close=False, of=lambda loaded: loaded.cpu_each, scale=1e-3, unit=" µs"):
    with setting.place() as place:
        start = upstream.lean if path == "/" else upstream.start
        contenders = three(place, setting, start(place, proxies.REST_CPU))
        found = rounds(setting.rounds, contenders, lambda one: load.wrk(one, connections, setting.seconds, path, close))
        ours, others = split(found, of)
        return [against_the_better(name, goal, ours, others, scale=scale, unit=unit, note=idle(found))]


def idle(found):
    """How idle the cores were: a proxy that waits for its upstream is woken for each event, and pays for it."""
    told = []
    for whose, core in (("generator's", proxies.REST_CPU), ("proxy's", proxies.PROXY_CPU)):
        shares = {name: statistics.median(loaded.idle[core] for loaded in every) for name, every in found.items()}
        told.append(f"; {whose} core idle: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    return "".join(told)


def cpu_64(setting):
    return cpu("router, CPU per request, 64 connections", 0.70, setting, 64)


def cpu_256(setting):
    return cpu("router, CPU per request, 256 connections", 0.70, setting, 256)


def close(setting):
    return cpu("router, CPU, a connection per request", 0.90, setting, 64, close=True)


def body(size, setting, connections, path):
    name = f"router, CPU per byte, answers of {size}"
    return cpu(name, 0.90, setting, connections, path, of=lambda loaded: loaded.cpu_per_kib, scale=1, unit=" ns/KiB")


def body_64k(setting):
    return body("64 KiB", setting, 16, "/64k")


def body_10m(setting):
    return body("10 MiB", setting, 4, "/10m")


def against_one(name, goal, setting, contenders):
    found = rounds(setting.rounds, contenders, lambda one: load.wrk(one, 64, setting.seconds))
    ours, others = split(found, lambda loaded: loaded.cpu_each)
    return [against_the_better(name, goal, ours, others, scale=1e-3, unit=" µs", note=idle(found))]


def two_hops(setting):
    with setting.place() as place:
        origin = upstream.start(place, proxies.REST_CPU)
        theirs, ours = proxies.two_hops(place, nodes.Neap(place, setting.binary), origin)
        return against_one("router → server, CPU per request", 0.75, setting, [ours, theirs])


def one_node(setting):
    with setting.place() as place:
        origin = upstream.lean(place, proxies.REST_CPU)
        ours = proxies.one_node(nodes.Neap(place, setting.binary))
        theirs = proxies.haproxy(place, "haproxy", origin)
        return against_one("router and server in one node, CPU per request", 0.80, setting, [ours, theirs])


def saturation(setting):
    with setting.place() as place:
        contenders = three(place, setting, upstream.lean(place, proxies.REST_CPU))
        found = rounds(setting.rounds, contenders, lambda one: load.wrk(one, 256, setting.seconds))
        ours, others = split(found, lambda loaded: loaded.rate)
        spare = [statistics.median(loaded.idle[proxies.REST_CPU] for loaded in every) for every in found.values()]
        name, counts = "router, requests a second at saturation", min(spare) >= IDLE_LEAST
        return [against_the_better(name, 1.35, ours, others, most=False, unit="/s", counts=counts, note=idle(found))]


def latency(setting):
    """Open loop, with the upstream's own, which is asked at the same rate in the same round."""
    with setting.place() as place:
        origin = upstream.lean(place, proxies.REST_CPU)
        contenders = three(place, setting, origin)
        direct = proxies.Contender("direct", origin, [])
        rates = [load.wrk(one, 256, setting.seconds).rate for one in contenders[1:] for _ in range(1 if setting.quick else 3)]
        found = []
        for share, told in ((1 / 3, "a third"), (2 / 3, "two thirds")):
            rate = round(max(rates) * share)
            ask = lambda one: load.traffic(setting.generator, one.port, rate, setting.seconds + 1, TRAFFIC_CONNECTIONS)
            reports = rounds(setting.rounds, [*contenders, direct], ask)
            found += added(reports, f"{told} of saturation ({rate:,}/s)")
        return found


def added(reports, told):
    """What is added is told; what is compared is the whole, which orders them alike and does not divide by next to nothing."""
    base = reports.pop("direct")
    for quantile in ("p50", "p99"):
        whole = {name: [each["latency_ms"][quantile] for each in every] for name, every in reports.items()}
        own = [each["latency_ms"][quantile] for each in base]
        more = {name: spread([a - b for a, b in zip(every, own)], 1e3, 0) for name, every in whole.items()}
        detail = "added by " + "; ".join(f"{name} {shown} µs" for name, shown in more.items())
        detail += f"; the upstream alone {spread(own, 1e3, 0)} µs"
        value = max(ratios(whole.pop("neap"), whole).values())
        yield Result(f"router, {quantile} at {told}, by the better's", value, 1.0, detail=detail)


def programs(setting):
    """Instructions with many programs by those with few."""
    few, many = (
        instructions.measure("router", setting.binary, setting.first_port, change=nodes.several(count, 3)) for count in (10, 10_000)
    )
    detail = f"10,000 programs {many:,.0f}, 10 programs {few:,.0f} instructions"
    return [Result("router, instructions with 10,000 programs × 3 routes by those with 10", many / few, 1.05, detail=detail)]


def count_instructions(setting):
    found = []
    for kind, name in instructions.NAMES.items():
        count = instructions.measure(kind, setting.binary, setting.first_port)
        found.append(Result(f"{name}, user instructions per request", count, instructions.GOAL))
    return found


def list_changes(setting):
    """The Server List changes every second under load, and does not, in pairs."""
    with setting.place() as place:
        origin = upstream.start(place, proxies.REST_CPU)
        neap = nodes.Neap(place, setting.binary)
        router = proxies.router(neap, origin, change=nodes.several(100, 3))
        rate = round(load.wrk(router, 64, setting.seconds).rate / 3)
        seconds = 2 if setting.quick else 6
        ask = lambda: load.traffic(setting.generator, router.port, rate, seconds, TRAFFIC_CONNECTIONS)["latency_ms"]["p99"]
        ask()
        without, during = [], []
        changes = churn.Changes(router.processes[0].control, neap.held_by("neap"))
        for number in range(1 if setting.quick else max(PAIRS, setting.rounds)):
            for changing in (number % 2 == 0, number % 2 == 1):
                if changing:
                    with changes:
                        during.append(ask())
                else:
                    without.append(ask())
        value = statistics.median(a / b for a, b in zip(during, without))
        noise = max(without) / statistics.median(without)
        detail = f"p99 during {spread(during, 1e3, 0)} µs, without {spread(without, 1e3, 0)} µs, at {rate:,}/s; "
        detail += f"{changes.sent} changes taken; without, the worst round is {noise:.2f} of the median"
        return [Result("router, p99 while the Server List changes every second, by that without", value, 1.10, detail=detail)]


def idle_memory(setting):
    """Growth of resident memory by connections that have had an answer and are kept."""
    count = 500 if setting.quick else IDLE_CONNECTIONS
    request, length = client.request(), upstream.SIZES["/"]
    with setting.place() as place:
        contenders = three(place, setting, upstream.start(place, proxies.REST_CPU))

        def grown(contender):
            with client.Client(contender.port, 64) as clients:
                clients.send(1_000, request, length)
            before = contender.rss()
            with client.Idle(contender.port, count, request, length):
                # Connections count as idle once they have been so for a moment: neap parks them then.
                time.sleep(IDLE_SECONDS)
                return (contender.rss() - before) / count

        # Memory once taken is kept, so that only a process's first time tells: each is asked once.
        found = {contender.name: grown(contender) for contender in contenders}
    told = ", ".join(f"{name} {value:,.0f} bytes" for name, value in found.items())
    return [Result(f"router, resident memory per idle connection, of {count:,}", found["neap"] / 1024, 1.0, unit=" KiB", detail=told)]


ALL = {
    "cpu-64": cpu_64,
    "cpu-256": cpu_256,
    "instructions": count_instructions,
    "two-hops": two_hops,
    "one-node": one_node,
    "saturation": saturation,
    "latency": latency,
    "body-64k": body_64k,
    "body-10m": body_10m,
    "programs": programs,
    "list-changes": list_changes,
    "idle-memory": idle_memory,
    "close": close,
}
# Not part of a quick run.
SLOW = {"instructions", "programs"}
