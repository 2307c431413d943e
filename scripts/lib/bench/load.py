"""Owns the load: wrk where answers are to come as fast as they can, `neap traffic` where requests are due at their own time.
All of it from one core. Must not know who answers, nor what is made of the figures."""

import json
import pathlib
import re
import subprocess

import client
from proxies import REST_CPU
from rig import Trouble

DONE = re.compile(r"(\d+) requests in ([\d.]+)(ms|s|m), ([\d.]+)([KMGT]?)B read")
BAD = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)")
SECONDS = {"ms": 0.001, "s": 1, "m": 60}
KIBIBYTES = {"": 1 / 1024, "K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}


class Loaded:
    """What a time of load came to: requests answered, KiB read, nanoseconds of the contender's, and how idle the cores were."""

    def __init__(self, requests, seconds, kib, cpu, idle):
        self.requests, self.seconds, self.kib, self.cpu, self.idle = requests, seconds, kib, cpu, idle

    @property
    def cpu_each(self):
        return self.cpu / self.requests

    @property
    def cpu_per_kib(self):
        return self.cpu / self.kib

    @property
    def rate(self):
        return self.requests / self.seconds


def wrk(contender, connections, seconds, path="/", close=False):
    """As many requests as so many connections can carry."""
    headers = {**client.BROWSER, **contender.headers, **({"Connection": "close"} if close else {})}
    argv = ["taskset", "-c", REST_CPU, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    for name, value in {"Host": client.HOST, **headers}.items():
        argv += ["-H", f"{name}: {value}"]
    argv.append(f"http://127.0.0.1:{contender.port}{path}")
    idle, cpu = cores(), contender.cpu()
    said = run(argv)
    cpu, idle = contender.cpu() - cpu, shares(idle, cores())
    done, bad = DONE.search(said), BAD.search(said)
    # With a connection per request wrk takes the end of one for a read error, where it is the answer's own.
    if not done or (bad and not close) or int(done[1]) == 0:
        raise Trouble(f"wrk against {contender.name}:\n{said}")
    seconds, kib = float(done[2]) * SECONDS[done[3]], float(done[4]) * KIBIBYTES[done[5]]
    return Loaded(int(done[1]), seconds, kib, cpu, idle)


def traffic(neap, port, rate, seconds, connections=64):
    """Requests due at fixed times, so many a second, whatever the answers do; latency counts from when each was due."""
    argv = ["taskset", "-c", REST_CPU, neap, "traffic", f"http://127.0.0.1:{port}/", "--raw", "--quiet", "--output", "json"]
    argv += ["--rate", rate, "--duration", f"{seconds}s", "--connections", connections, "--header", f"Host: {client.HOST}"]
    for name, value in client.BROWSER.items():
        argv += ["--header", f"{name}: {value}"]
    report = json.loads(run(argv))
    if not report["passed"]:
        raise Trouble(f"traffic failed: {report['by_failure']}, {report['errors'][:2]}")
    return report


def run(argv):
    ran = subprocess.run([str(arg) for arg in argv], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if ran.returncode != 0:
        raise Trouble(f"{' '.join(map(str, argv[:4]))} … ended with {ran.returncode}:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    return ran.stdout


def cores():
    """Ticks of each core: idle, and all."""
    lines = pathlib.Path("/proc/stat").read_text().splitlines()
    ticks = [list(map(int, line.split()[1:9])) for line in lines if re.match(r"cpu\d", line)]
    return [(core[3] + core[4], sum(core)) for core in ticks]


def shares(before, after):
    """How much of the time each core was idle."""
    return [(b[0] - a[0]) / max(1, b[1] - a[1]) for a, b in zip(before, after)]
