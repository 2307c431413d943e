"""Owns the command line of scripts/bench: which parts there are, and which one runs. A part is a file in parts/ with a
docstring, `options(parser)` and `run(args)`; what it prints and answers is its own."""

import argparse
import importlib
import pathlib
import signal
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import rig  # noqa: E402  (the path is set above)


def parts():
    names = sorted(path.stem for path in (HERE / "parts").glob("*.py"))
    return {name: importlib.import_module(f"parts.{name}") for name in names}


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures neap, mostly beside other software that does the same work on the same machine, in the same "
        "minutes. docs/benchmarks.md tells what is measured, how, and what came out.",
    )
    commands = parser.add_subparsers(dest="part", required=True, metavar="PART")
    for name, part in parts().items():
        first, _, rest = part.__doc__.strip().partition("\n\n")
        command = commands.add_parser(
            name, help=first, description=f"{first}\n\n{rest}", formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.add_argument("--neap", metavar="FILE", help="the binary to measure; without it, the release is built")
        command.add_argument("--first-port", type=int, default=17100, metavar="N", help="ports are taken from here on (17100)")
        part.options(command)
        command.set_defaults(run=part.run)
    args = parser.parse_args()
    # So that `finally` is reached, and with it every process that was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return args.run(args)
    except rig.Trouble as trouble:
        print(f"scripts/bench: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
