#!/usr/bin/env python3
"""What one env's runs take, from POST to the event of their end, alone and while another env sends 50,000 at once.

    integration-tests/bench/fairness.py sqlite|postgres

A client's view in microseconds, where the stamps of runs are whole milliseconds: it has both commits in it, the event's
way, and what the clients themselves take of the cores. TIDEGATE_BIN names the release binary.
"""

import http.client
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
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


def follow(port, env, seen, arrived):
    stream = http.client.HTTPConnection("127.0.0.1", port)
    stream.request("GET", "/api/v1/events", headers={"X-Tidegate-Env": env})
    answer = stream.getresponse()

    def read():
        for line in answer:
            if line.startswith(b'data: {"id":"run_'):
                with arrived:
                    seen[line[13:43].decode()] = time.perf_counter()
                    arrived.notify_all()

    threading.Thread(target=read, daemon=True).start()


def trickle(port, env, runs=100):
    """One run every 100 ms; milliseconds that each took, the shortest first."""
    seen, arrived, spans = {}, threading.Condition(), []
    follow(port, env, seen, arrived)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(runs):
        began = time.perf_counter()
        connection.request("POST", "/api/v1/runs", '{"task":"noop"}',
                           {"Content-Type": "application/json", "X-Tidegate-Env": env})
        run = json.loads(connection.getresponse().read())["id"]
        with arrived:
            if not arrived.wait_for(lambda: run in seen, 30):
                raise SystemExit(f"{run} was not seen to finish")
        spans.append((seen[run] - began) * 1000)
        time.sleep(max(0.0, 0.1 - (time.perf_counter() - began)))
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
