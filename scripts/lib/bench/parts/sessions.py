"""a million sessions in one list: memory, a request, a page, expiry, restart; and what a session adds to a request

Runs examples/session_list.rs in release: the list that servers and management have, and the store that it begins again from.
What a program keeps in its sessions is not counted. Then, unless --list, measures what a request of a sticky session costs a
node that is router and server, beside one of the same program without sessions: CPU, in turn, round after round, and user
instructions by callgrind.

--check ends with 1 if one of them is above its goal.
"""

import json
import subprocess

import client
import load
import measures
import nodes
import parts.instructions as instructions
import proxies
import results
import rig

SESSIONS, QUICK = 1_000_000, 100_000
# A request of a sticky session by one of a program without any, in CPU.
STICKY_GOAL = 1.10
# Rounds, seconds of each, connections.
ROUNDS, SECONDS, CONNECTIONS = 9, 2, 64
# Of a million; what has no goal is told.
GOALS = {
    "bytes_per_session": (300, " B", "memory of a session, beside its data"),
    "arrive_ns": (1_000, " ns", "a request of a session in the list: found, heard of, finished"),
    "page_age_ms": (100, " ms", "first page, by age"),
    "page_seen_ms": (100, " ms", "first page, by last request"),
    "expire_some_ms": (1_000, " ms", "a look for idle sessions of which up to a quarter is"),
    "expire_none_ms": (1, " ms", "a look for idle sessions of which none is"),
    "changes_ms": (10, " ms", "taking a batch of 2,000 changes"),
    "batch_ms": (1_000, " ms", "20,000 changes written, the longest of 40 times"),
    "begin_ms": (10_000, " ms", "begun again: the store opened, and the list read"),
}


def options(parser):
    parser.add_argument("--check", action="store_true", help="end with 1 if a goal does not hold")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:,} sessions: whether it works, no figures")
    parser.add_argument("--json", metavar="FILE", help="write [{name, value, goal, holds, detail}] to this file")
    parser.add_argument("--list", action="store_true", help="the list alone")
    parser.add_argument("--debug", action="store_true", help="of the debug build, which is there already: no figures either")


def run(args):
    program = rig.example("session_list", "dev" if args.debug else "release")
    count = QUICK if args.quick else SESSIONS
    ran = subprocess.run([program, str(count)], capture_output=True, text=True)
    if ran.returncode != 0:
        raise rig.Trouble(f"{program} ended with {ran.returncode}: {ran.stderr.strip()}")
    told = json.loads(ran.stdout)
    found = [results.Result(name, told[name], goal, unit=unit, detail=what) for name, (goal, unit, what) in GOALS.items()]
    if not (args.list or args.debug):
        found.append(sticky(args))
    print(results.table(found))
    print(f"\n{told['sessions']:,} sessions written in {told['save_ms']:,} ms; of beginning again, {told['open_ms']:,} ms open the store")
    if args.json:
        results.write(args.json, found)
    return 1 if args.check and not all(result.holds for result in found) else 0


def sticky(args):
    """What a session adds to a request."""
    instructions.prepare()
    rig.need({"wrk": "wrk"})
    binary, requests = rig.neap_binary(args.neap), instructions.QUICK if args.quick else (instructions.LESS, instructions.MORE)
    without = instructions.measure("node", binary, args.first_port, requests)
    with_it = instructions.measure("node", binary, args.first_port, requests, sessions="sticky")
    plain, tagged = cpu(binary, args.first_port, 1 if args.quick else ROUNDS)
    value = results.ratios(tagged, {"plain": plain})["plain"]
    detail = f"{results.spread(tagged, 1e-3)} µs, {results.spread(plain, 1e-3)} µs without sessions; "
    detail += f"{with_it:,.0f} user instructions, {without:,.0f} without"
    return results.Result("sticky_by_none", value, STICKY_GOAL, detail=detail)


def cpu(binary, first_port, count):
    """Nanoseconds a request, round by round: of a program without sessions, and of one session of a sticky program."""
    with rig.Rig(first_port) as place:
        neap, contenders = nodes.Neap(place, binary), []
        for policy in (None, "sticky"):
            name = policy or "plain"
            process, port = neap.both(name, proxies.PROXY_CPU, proxies.REST_CPU, sessions=policy)
            contenders.append(proxies.node(name, port, process))
        tag = client.cookie(contenders[1].port, {})
        contenders[1].headers = {"Cookie": f"{client.BROWSER['Cookie']}; {tag}"}
        found = measures.rounds(count, contenders, lambda one: load.wrk(one, CONNECTIONS, SECONDS))
        return [[loaded.cpu_each for loaded in found[contender.name]] for contender in contenders]
