"""the path of a request, beside HAProxy and nginx: CPU, throughput, latency, memory

Installs nginx, HAProxy and wrk from Debian where they are missing, gives each the same work (same upstream, connections kept
on both sides, forwarded headers, a request id, counters on, no access log), runs them in turn with neap, round after round,
and prints medians and ratios. The proxies are on one core, the upstream and whoever asks on the other. neap is measured as
shipped: the release build with its defaults. docs/benchmarks.md tells how to read it.

Ends with 0 when everything was measured, whether or not the goals hold.
"""

import measures
import proxies
import results
import rig

ROUNDS, QUICK_ROUNDS = 5, 1
SECONDS, QUICK_SECONDS = 3, 1


def options(parser):
    names = ", ".join(measures.ALL)
    parser.add_argument("--json", metavar="FILE", help="write [{name, value, goal, holds, detail}] to this file")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds of each measure ({ROUNDS})")
    parser.add_argument("--seconds", type=int, metavar="N", help=f"that each contender is asked in a round ({SECONDS})")
    parser.add_argument("--only", nargs="+", metavar="MEASURE", choices=list(measures.ALL), help=f"of {names}")
    parser.add_argument("--quick", action="store_true", help="one short round of each but callgrind: whether it works, no figures")
    parser.add_argument("--generator", metavar="FILE", help="the neap whose `traffic` sends; without it, the one measured")


def run(args):
    rig.need({**proxies.PACKAGES, "valgrind": "valgrind"})
    binary = rig.neap_binary(args.neap)
    generator = rig.neap_binary(args.generator) if args.generator else binary
    rounds = args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)
    seconds = args.seconds or (QUICK_SECONDS if args.quick else SECONDS)
    setting = measures.Setting(binary, generator, args.first_port, rounds, seconds, args.quick)
    for line in proxies.versions(binary):
        rig.say(line)
    chosen = args.only or [name for name in measures.ALL if not (args.quick and name in measures.SLOW)]
    found = []
    for name in chosen:
        rig.say(f"== {name}")
        new = measures.ALL[name](setting)
        for result in new:
            rig.say(f"   {result.name}: {results.show(result.value, result.unit)} ({result.detail})")
        found += new
        if args.json:
            results.write(args.json, found)
    print(results.table(found))
    return 0
