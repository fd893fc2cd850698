#!/usr/bin/env python3
"""What one env's runs take, from POST to the event of their end, alone and while another env sends 50,000 at once.

    integration-tests/bench/fairness.py sqlite|postgres

A client's view in microseconds, where the stamps of runs are whole milliseconds: it has both commits in it, the event's
way, and what the clients themselves take of the cores. TIDEGATE_BIN names the release binary.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import serve

FLOOD = """
import http.client, json, sys, time
connection, left = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1])), 50_000
body = json.dumps({"runs": [{"task": "noop"}] * 1_000})
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
    """One run every 100 ms; milliseconds that each took, the shortest first."""
    client, spans = serve.Submitter(port, env), []
    for _ in range(runs):
        spans.append(client.submit('{"task":"noop"}'))
        time.sleep(max(0.0, 0.1 - spans[-1] / 1000))
    return sorted(spans)


def main(kind):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-bench-files."))
    cluster = serve.Cluster() if kind == "postgres" else None
    server = serve.Server(serve.Store(kind, cluster, folder))
    try:
        trickle(server.port, "warm/up", 20)
        alone = trickle(server.port, "light/alone")
        flood = subprocess.Popen([sys.executable, "-c", FLOOD, str(server.port)])
        beside = trickle(server.port, "light/beside")
        flood.wait()
        for name, spans in (("alone", alone), ("beside a flood", beside)):
            print(f"{kind} {name}: p50 {spans[49]:.2f} ms, p90 {spans[89]:.2f} ms, p99 {spans[98]:.2f} ms")
        print(f"{kind} p99: {beside[98] / alone[98]:.1f} times as long")
    finally:
        server.stop()
        if cluster:
            cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:] not in (["sqlite"], ["postgres"]):
        raise SystemExit(__doc__)
    main(sys.argv[1])
