"""Owns what a measurement runs on: a temporary directory, ports, and processes that are all gone at the end. Must not know
what they are, nor what is measured."""

import ctypes
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
# Ports tried from the first one on.
PORTS = 400
FILES = 20_000
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


class Trouble(Exception):
    """What a person can do something about: said without a traceback."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def need(commands):
    """Installs what is missing of {command: Debian package}."""
    missing = [package for command, package in commands.items() if not shutil.which(command, path=search_path())]
    if not missing:
        return
    if not is_root() or not shutil.which("apt-get"):
        raise Trouble(f"install {' '.join(missing)} first (or run this as root on Debian)")
    say(f"installing {' '.join(missing)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt_get(["update"], env)
    # What is installed is run by hand here, never as a service of the machine.
    with tempfile.TemporaryDirectory() as stubs:
        for name in ("invoke-rc.d", "deb-systemd-invoke"):
            stub = pathlib.Path(stubs, name)
            stub.write_text("#!/bin/sh\nexit 0\n")
            stub.chmod(0o755)
        env["PATH"] = f"{stubs}:{os.environ['PATH']}"
        apt_get(["install", "-y", "--no-install-recommends", *missing], env)


def apt_get(args, env):
    if subprocess.run(["apt-get", "-qq", *args], env=env, stdout=subprocess.DEVNULL).returncode != 0:
        raise Trouble(f"apt-get {' '.join(args)} failed")


def search_path():
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


def neap_binary(given):
    """The binary as shipped: the one named, or what scripts/dist makes of this tree."""
    if given:
        path = pathlib.Path(given).resolve()
        if not os.access(path, os.X_OK):
            raise Trouble(f"{path} cannot be run")
        return path
    made = subprocess.run([ROOT / "scripts" / "dist"], stdout=subprocess.PIPE, text=True)
    if made.returncode != 0:
        raise Trouble("neap does not build")
    return pathlib.Path(made.stdout.splitlines()[-1])


def example(name, profile="release"):
    """One of the tree's examples, built."""
    return build(profile, "--example", name) / "examples" / name


def compiled(name, into):
    """One of the programs here that need no crate, compiled into a directory."""
    program, source = into / name, pathlib.Path(__file__).resolve().parent / f"{name}.rs"
    argv = ["rustc", "--edition", "2024", "-O", "-C", "strip=symbols", "-o", program, source]
    if subprocess.run(argv).returncode != 0:
        raise Trouble(f"{source.name} does not build")
    return program


def build(profile, *what):
    """Where cargo puts what it has built."""
    if subprocess.run(["cargo", "build", "--locked", "--profile", profile, *what], cwd=ROOT).returncode != 0:
        raise Trouble(f"{what[-1]} does not build")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return (target / ("debug" if profile == "dev" else profile)).resolve()


class Rig:
    """A place to measure in; `with Rig(...) as rig`."""

    def __init__(self, first_port):
        self.ports = iter(range(first_port, first_port + PORTS))
        self.processes = []
        os.environ["PATH"] = search_path()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="neap-bench."))
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.stop()
        self.stop_strays(self.dir)
        shutil.rmtree(self.dir, ignore_errors=True)

    def port(self):
        for port in self.ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                    return port
                except OSError:
                    continue
        raise Trouble("no free port is left: see --first-port")

    def folder(self, name):
        path = self.dir / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def start(self, name, argv, cpu=None, port=None, within=30, env=None):
        """Starts a process on one core; waits until it takes connections on `port`."""
        process = Process(name, [str(arg) for arg in argv], self.dir, cpu, env)
        self.processes.append(process)
        if port:
            process.await_port(port, within)
        return process

    def stop_strays(self, folder):
        """Ends what processes have started themselves and left behind: it still stands in their directory."""
        for _ in range(50):
            strays = [pid for pid in pids() if stands_in(pid, folder)]
            if not strays:
                return
            for pid in strays:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.1)


def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children(parent):
    """The processes that this one has started."""

    def started_by(pid):
        try:
            return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return None

    return [pid for pid in pids() if started_by(pid) == parent]


def is_root():
    return os.geteuid() == 0


def first_line(argv):
    """What a command says first, such as its version."""
    told = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return (told.stdout + told.stderr).strip().partition("\n")[0]


def stands_in(pid, path):
    try:
        return pathlib.Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(path)
    except OSError:
        return False


class Process:
    """One process that was started here, pinned to a core; ends with this one, whatever happens to it."""

    def __init__(self, name, argv, dir, cpu, env):
        def prepare():
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})

        self.name = name
        self.log = dir / f"{name}.log"
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                argv,
                cwd=dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=prepare,
                env={**os.environ, **(env or {})},
            )
        self.pid = self.child.pid

    def await_port(self, port, within):
        def connects():
            with socket.socket() as probe:
                probe.settimeout(1)
                return probe.connect_ex(("127.0.0.1", port)) == 0

        self.wait_until(connects, within, f"does not listen on port {port}")

    def wait_until(self, holds, within, otherwise):
        until = time.monotonic() + within
        while time.monotonic() < until:
            if self.child.poll() is not None:
                raise Trouble(f"{self.name} ended ({self.child.returncode}):\n{self.tail()}")
            if holds():
                return
            time.sleep(0.05)
        raise Trouble(f"{self.name} {otherwise} after {within} s:\n{self.tail()}")

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])

    def stop(self, within=20):
        """Asks it to end, and makes it."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(within)
            except subprocess.TimeoutExpired:
                self.child.kill()
        self.child.wait()
