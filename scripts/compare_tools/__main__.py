"""Runs load tools against the simulator's known schedules, and compares what they report with what the simulator sent."""

import argparse
import os
import sys
from pathlib import Path

import cost
import output
import simulator
import tokenizer
import tools
import truth
from schedules import SCHEDULES

ROOT = Path(__file__).resolve().parents[2]

# Streams at once, and questions of each. About a second and a half each, so that every tool has several rounds.
ROUNDS = {1: 10, 50: 4, 500: 2}


def names(known):
    def parse(text):
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown {unknown[0]!r}: expected some of {','.join(known)}")
        return chosen
    return parse


def numbers(text):
    try:
        found = [int(number) for number in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(1 <= number <= 2000 for number in found):
        raise argparse.ArgumentTypeError(f"invalid {text!r}: expected numbers from 1 to 2000, for example 1,50,500")
    return found


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/compare_tools.sh", description=__doc__, epilog=(
        "A tool runs if its program is found: in $TOOLS_DIR/NAME/bin (default target/tools), or on the PATH. Those that are missing are listed. "
        "Nothing but this machine is contacted."))
    parser.add_argument("--tools", type=names(list(tools.TOOLS)), default=list(tools.TOOLS), metavar="NAMES",
                        help=f"default: {','.join(tools.TOOLS)}")
    known = [schedule.name for schedule in SCHEDULES]
    parser.add_argument("--schedules", type=names(known), default=known, metavar="NAMES", help=f"default: {','.join(known)}")
    parser.add_argument("--streams", type=numbers, default=[1, 50, 500], metavar="NUMBERS",
                        help="streams at once; all schedules but `steady` run with the one nearest to 50 only (default: 1,50,500)")
    parser.add_argument("--all", action="store_true", help="run every schedule with every number of streams")
    parser.add_argument("--quick", action="store_true", help="one question per stream, and 5 with a single stream")
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/streamstress",
                        help="simulator and this client (default: the release build)")
    parser.add_argument("--output", type=Path, default=ROOT / "results/compare_tools",
                        help="directory of the results; earlier ones of the same runs are replaced (default: results/compare_tools)")
    parser.add_argument("--table", action="store_true", help="run nothing: print the table of the results that are there")
    return parser.parse_args()


def rounds(streams, quick):
    if quick:
        return 5 if streams == 1 else 1
    return ROUNDS.get(streams) or max(1, min(20, 200 // streams))


def plan(args):
    """Yields the schedule and the number of streams of each run."""
    middle = min(args.streams, key=lambda streams: abs(streams - 50))
    for schedule in SCHEDULES:
        if schedule.name in args.schedules:
            for streams in args.streams:
                if args.all or schedule.name == "steady" or streams == middle:
                    yield schedule, streams


def measure(tool, program, schedule, streams, args):
    directory = args.output / f"{schedule.name}_{streams}_{tool.name}"
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        if old.is_file():
            old.unlink()
    load = tools.Load(streams, rounds(streams, args.quick), args.output / "tokenizer", directory, args.program)
    with simulator.simulator(args.program, schedule, directory) as url:
        command, variables = tool.command(program, url, load)
        code, spent = cost.run(command, directory, variables)
    reported = tool.read(directory) if code is not None else {}
    result = {
        "tool": tool.name, "version": tool.version(program), "schedule": schedule.name, "streams": streams,
        "command": command, "exit_code": code, "asked": load.requests, "cost": spent, "reported": reported,
        "true": truth.truth(simulator.read_record(directory)),
    }
    output.save(result, directory)
    return result


def main():
    args = arguments()
    args.output = args.output.resolve()
    if args.table:
        return print(output.table(output.load(args.output)))
    if not args.program.exists():
        sys.exit(f"compare_tools: {args.program} is missing: run cargo build --release --workspace, or give --program")
    places = Path(os.environ.get("TOOLS_DIR", ROOT / "target/tools"))
    tokenizer.write(args.output / "tokenizer")
    found = {}
    for name in args.tools:
        program = args.program if name == "streamstress" else tools.find(name, places)
        if program is None:
            print(f"{name} is not installed: skipped", file=sys.stderr)
        else:
            found[name] = program
    for schedule, streams in plan(args):
        for name, program in found.items():
            print(f"{schedule.name}, {streams} streams: {name}", file=sys.stderr, flush=True)
            result = measure(tools.TOOLS[name], program, schedule, streams, args)
            print(output.line(result), file=sys.stderr, flush=True)
    results = output.load(args.output)
    output.write_files(results, args.output)
    print(output.table(results))


if __name__ == "__main__":
    main()
