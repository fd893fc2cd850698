#!/usr/bin/env python3
"""How long one env's runs wait, alone and while another env sends 50,000 at once.

    integration-tests/bench/fairness.py sqlite|postgres [--rounds 5] [--check]

A round is 100 runs, one every 100 ms, alone, and as many from the flood's first request on; the rounds are taken
together, so that one busy moment of the machine is not the percentile. Two spans are told: from accepted to started, by
the runs' own stamps in whole milliseconds, which are too coarse to compare one or two of them, and from POST to the event
of the end, which has both commits in it, the event's way, and what the clients themselves take of the cores. --check ends
with 1 if the latter's p99 beside the flood is more than twice that alone. TIDEGATE_BIN names the release binary.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import serve

# Tells that it is there, and begins at a line from its standard input: what an interpreter's start takes of the cores
# is none of the flood.
FLOOD = """
import http.client, json, sys, time
connection, left = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1])), 50_000
body = json.dumps({"runs": [{"task": "noop"}] * 1_000})
print(flush=True)
sys.stdin.readline()
while left:
    connection.request("POST", "/api/v1/runs/batch", body,
                       {"Content-Type": "application/json", "X-Tidegate-Env": "flood/dev"})
    answer = connection.getresponse()
    answer.read()
    if answer.status == 200:
        left -= 1_000
    else:
        time.sleep(0.05)
"""


def trickle(port, env, runs=100):
    """One run every 100 ms; milliseconds that each took."""
    client, spans = serve.Submitter(port, env), []
    for _ in range(runs):
        spans.append(client.submit('{"task":"noop"}'))
        time.sleep(max(0.0, 0.1 - spans[-1] / 1000))
    return spans


def beside_a_flood(port, env):
    """Spans beside 50,000 runs of somebody else."""
    flood = subprocess.Popen([sys.executable, "-c", FLOOD, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    flood.stdout.readline()
    flood.stdin.write(b"\n")
    flood.stdin.close()
    spans = trickle(port, env)
    if flood.wait():
        raise SystemExit("the flood was not sent")
    return spans


def ranks(count):
    """Where p50, p90 and p99 stand among so many, the shortest first."""
    return [-(-count * percent // 100) - 1 for percent in (50, 90, 99)]


def percentiles(spans):
    spans = sorted(spans)
    return [spans[rank] for rank in ranks(len(spans))]


def waits(store, env, count):
    """The same of the waits of an env's runs, by their stamps, in ms."""
    nth = f"SELECT started_at - accepted_at FROM run_records WHERE env = '{env}' ORDER BY 1 LIMIT 1 OFFSET"
    return [store.number(f"{nth} {rank}") for rank in ranks(count)]


def main(args):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-bench-files."))
    cluster = serve.Cluster() if args.kind == "postgres" else None
    store = serve.Store(args.kind, cluster, folder)
    server = serve.Server(store)
    try:
        trickle(server.port, "warm/up", 20)
        spans = {"alone": [], "beside": []}
        for _ in range(args.rounds):
            spans["alone"] += trickle(server.port, "light/alone")
            spans["beside"] += beside_a_flood(server.port, "light/beside")
        seen = {name: percentiles(of) for name, of in spans.items()}
        waited = {name: waits(store, f"light/{name}", len(of)) for name, of in spans.items()}
        for name in spans:
            (w50, w90, w99), (p50, p90, p99) = waited[name], seen[name]
            print(f"{args.kind} {name}: waits p50 {w50}, p90 {w90}, p99 {w99} ms;"
                  f" POST to event p50 {p50:.2f}, p90 {p90:.2f}, p99 {p99:.2f} ms")
        times = seen["beside"][2] / seen["alone"][2]
        print(f"{args.kind} p99: POST to event {times:.2f} times as long")
        return int(args.check and times > 2)
    finally:
        server.stop()
        if cluster:
            cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["sqlite", "postgres"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    sys.exit(main(parser.parse_args()))
