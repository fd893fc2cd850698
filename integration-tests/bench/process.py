"""What `tidegate process` costs: CPU against a plain Python copy of the same file, peak memory, flatness.

    python3 integration-tests/bench/process.py [--lines 10000,100000] [--store sqlite|postgres://…] [--check]

Both are measured in the same run on the same file, in turns, because only their ratio means the same on
every machine. The provider is `tidegate sim` in a process of its own, whose CPU and memory do not count.
With --check a missed bound makes the exit code 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sdk"))
import rig

# The bounds of --check.
MOST_RATIO = 12.0
MOST_RSS_MIB = 256.0
MOST_GROWTH = 1.2
# Runs of at most so many lines are noisy: they are repeated, and the median counts.
SMALL, REPEATED = 20_000, 3

COPY = """
import json, sys
with open(sys.argv[1]) as source, open(sys.argv[2], "w") as out:
    for line in source:
        out.write(json.dumps(json.loads(line)) + "\\n")
"""
WORDS = "the tide takes what the gate lets through and never gives back a single drop of it again".split()


def write_input(path, count):
    """Distinct lines of about 1 KB in OpenAI form; distinct between runs too, so that no store knows the job."""
    run = uuid.uuid4().hex
    with path.open("w") as file:
        for number in range(count):
            text = " ".join(WORDS[(number * 7 + at * 3) % len(WORDS)] for at in range(180))
            body = {"model": "gpt-5-mini", "max_completion_tokens": 64}
            body["messages"] = [{"role": "user", "content": f"{run} {number}: {text}"}]
            line = {"custom_id": f"request-{number:07}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def measured(argv, **options):
    """Runs a child to its end; gives its CPU seconds, peak memory in MiB, seconds and what it printed.

    A child's peak begins with the memory of the process that starts it: this one holds no file in memory.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.monotonic()
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, **options)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        took = time.monotonic() - began
        out.seek(0)
        errors.seek(0)
        if child.returncode != 0:
            sys.exit(f"{argv[0]} ended with {child.returncode}: {errors.read()[-3000:].decode(errors='replace')}")
        return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, took, out.read().decode()


def copy_in_python(place):
    cpu, _, _, _ = measured([sys.executable, "-c", COPY, str(place / "in.jsonl"), str(place / "copy.jsonl")])
    return {"python": cpu}


def process(place, sim, store, count):
    account = rig.Account(sim)
    source, out = place / "in.jsonl", place / "out.jsonl"
    url = f"sqlite:{place / 'store.db'}" if store == "sqlite" else store
    argv = [rig.binary(), "process", str(source), "--out", str(out), "--provider", "openai", "--store", url]
    argv += ["--poll", "200ms", "--progress", "none", "-o", "json"]
    cpu, rss, took, summary = measured(argv, cwd=place, env=account.environment("openai"))
    items = json.loads(summary)["items"]
    complete(items, source, out, count)
    twice = account.ledger()["billed_twice"]
    if twice:
        sys.exit(f"{len(twice)} requests were billed twice")
    return {"cpu": cpu, "rss": rss, "wall": took}


def complete(items, source, out, count):
    """A fast run that loses something is no run."""
    with source.open() as asked, out.open() as answered:
        same = sum(json.loads(a)["custom_id"] == json.loads(b)["custom_id"] for a, b in zip(asked, answered, strict=True))
    if same != count or items["succeeded"] != count:
        sys.exit(f"{same} of {count} results are in their place: {items}")


def measure(sim, store, count, first):
    """One run of both; which of them comes first changes from run to run."""
    with rig.folder() as place:
        place = Path(place)
        write_input(place / "in.jsonl", count)
        runs = [lambda: copy_in_python(place), lambda: process(place, sim, store, count)]
        found = {"bytes": (place / "in.jsonl").stat().st_size}
        for run in runs if first == 0 else reversed(runs):
            found |= run()
        return found


def row(sim, store, count):
    times = REPEATED if count <= SMALL else 1
    runs = []
    for number in range(times):
        print(f"{count} lines, run {number + 1} of {times}", file=sys.stderr)
        runs.append(measure(sim, store, count, number % 2))
    found = {name: median(run[name] for run in runs) for name in runs[0]}
    found["rss"] = max(run["rss"] for run in runs)
    return {"lines": count, "ratio": found["cpu"] / found["python"], "each": found["cpu"] / count * 1e6, **found}


def report(rows):
    """Prints the table; gives the bounds that were missed."""
    head = ["lines", "bytes", "python CPU s", "tidegate CPU s", "ratio", "peak RSS MiB", "CPU µs/line", "wall s"]
    cells = [
        [f"{r['lines']}", f"{r['bytes']:.0f}", f"{r['python']:.2f}", f"{r['cpu']:.2f}", f"{r['ratio']:.1f}"]
        + [f"{r['rss']:.0f}", f"{r['each']:.0f}", f"{r['wall']:.1f}"]
        for r in rows
    ]
    widths = [max(len(line[at]) for line in [head, *cells]) for at in range(len(head))]
    for line in [head, *cells]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)))
    musts = [(f"ratio at {r['lines']} lines", r["ratio"], MOST_RATIO) for r in rows]
    musts += [(f"peak RSS MiB at {r['lines']} lines", r["rss"], MOST_RSS_MIB) for r in rows]
    if len(rows) > 1:
        small, large = min(rows, key=lambda r: r["lines"]), max(rows, key=lambda r: r["lines"])
        name = f"flatness, CPU a line at {large['lines']} / at {small['lines']}"
        musts.append((name, large["each"] / small["each"], MOST_GROWTH))
    print()
    for name, value, most in musts:
        print(f"{'ok    ' if value <= most else 'MISSED'} {name}: {value:.2f} (at most {most:g})")
    return [name for name, value, most in musts if value > most]


def numbers(text):
    found = [int(part) for part in text.split(",")]
    if not found or min(found) < 1:
        raise ValueError(text)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=numbers, default=[10_000, 100_000], help="sizes (default 10000,100000)")
    parser.add_argument("--store", default="sqlite", help="sqlite (a new file each run), or a PostgreSQL URL")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bound is missed")
    given = parser.parse_args()
    with rig.folder() as state, rig.sim(state, latency="200ms") as sim:
        rows = [row(sim, given.store, count) for count in given.lines]
    missed = report(rows)
    if missed and given.check:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
