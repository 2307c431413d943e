"""Owns counting instructions: a process runs under valgrind, and what it says at its end is read. Must not know who runs."""

import re
import subprocess

from rig import Trouble

TOTALS = re.compile(r"^(?:totals|summary): (\d+)", re.M)
# `mov eax, 434` and soon after it `syscall`, on x86-64: pidfd_open.
PIDFD_OPEN = re.compile(rb"\xb8\xb2\x01\x00\x00(?=.{0,16}\x0f\x05)", re.S)
EPOLL_CREATE = b"\xb8\xd5\x00\x00\x00"
# The first version of valgrind that knows it.
KNOWS_PIDFD_OPEN = (3, 21)


def binary(neap, folder):
    """The binary to run under valgrind. A server holds its instances by pidfd_open, which valgrind before 3.21 (Debian 12 has
    3.19) does not know; a copy gets a descriptor there that is never readable, as that of an instance which does not end.
    No request comes by there: nothing of what is counted is another."""
    if version() >= KNOWS_PIDFD_OPEN:
        return neap
    code, found = PIDFD_OPEN.subn(EPOLL_CREATE, neap.read_bytes())
    if not found:
        raise Trouble(f"no pidfd_open found in {neap}: use valgrind {'.'.join(map(str, KNOWS_PIDFD_OPEN))} or later")
    copy = folder / "neap"
    copy.write_bytes(code)
    copy.chmod(0o755)
    return copy


def version():
    told = subprocess.run(["valgrind", "--version"], capture_output=True, text=True).stdout
    return tuple(map(int, re.findall(r"\d+", told)[:2]))


def wrapper(folder):
    """What to put before a command; its counts go to `folder`, thread by thread."""
    return ["valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={folder}/callgrind", "--quiet"]


class Counts:
    """What a process under valgrind has carried out in user space, from one look to the next."""

    def __init__(self, folder, process):
        self.folder, self.process, self.looks = folder, process, 0

    def look(self):
        """Instructions of each thread since the last look, or the start, and the file that tells where: {thread: (count, path)}."""
        self.looks += 1
        ran = subprocess.run(["callgrind_control", "--dump", str(self.process.pid)], capture_output=True, text=True)
        found = {}
        for path in self.folder.glob(f"callgrind.{self.looks}-*"):
            totals = TOTALS.findall(path.read_text(errors="replace"))
            if totals:
                found[path.suffix.rpartition("-")[2]] = (int(totals[-1]), path)
        if not found:
            raise Trouble(f"{self.process.name} told no counts:\n{ran.stdout}{ran.stderr}{self.process.tail()}")
        return found


def busiest(looks):
    """The thread that was at work in all of these looks: the worker, while requests are sent to a node that has one. Others
    may do more in one of them."""
    everywhere = set.intersection(*(set(look) for look in looks))
    return max(everywhere, key=lambda thread: min(look[thread][0] for look in looks))
