#!/usr/bin/env python3
"""How fast `tidegate serve` takes runs in and carries them out, against pgbench in the same run.

    integration-tests/bench/serve.py [--database sqlite|postgres|both] [--part intake,drain,latency,backlog]
                                     [--seconds 5] [--runs 50000] [--check]

Needs the release binary, PostgreSQL's server programs, pgbench and wrk (Debian: postgresql, wrk). Everything durable:
SQLite's log is synced before an answer, PostgreSQL with fsync and synchronous_commit as it ships, in a cluster of its
own that has segments of its log to use again. R is pgbench's rate of single-row inserts into a plain queue table
(identity key, jsonb payload of 200 bytes, partial index of what is ready) with 32 clients over TCP and prepared
statements; rates are given as multiples of R, which say more than runs per second on a machine that others use too.
--check ends with 1 when a rate is below its bar.
"""
import argparse
import glob
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("TIDEGATE_BIN") or ROOT / "target/release/tidegate")
PAYLOAD = json.dumps({"text": "x" * 180})
# The bars of the project: measure -> database -> multiple of R, at least.
BARS = {
    "accept_32": {"postgres": 1.0, "sqlite": 1.3},
    "accept_256": {"postgres": 1.8},
    "drain": {"postgres": 1.2, "sqlite": 1.6},
}
GOALS = {
    "accept_32": {"postgres": 1.4, "sqlite": 2.0},
    "accept_256": {"postgres": 2.5},
    "drain": {"postgres": 2.1, "sqlite": 3.0},
}
MOST = {
    "latency_p50_ms": {"postgres": 3.3, "sqlite": 2.4},
    "latency_p99_ms": {"postgres": 8.0, "sqlite": 6.0},
    "drain_cpu_us": {"postgres": 60.0},
    "peak_mib": {"postgres": 96.0, "sqlite": 96.0},
    "backlog_ratio": {"postgres": 1.3, "sqlite": 1.3},
}


def as_postgres(command):
    if os.geteuid() != 0:
        return command
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--", *command]


class Cluster:
    """A PostgreSQL cluster of its own, durable, on a free port."""

    def __init__(self):
        self.bin = pathlib.Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-bench."))
        if os.geteuid() == 0:
            shutil.chown(self.root, "postgres", "postgres")
        self.port = free_port()
        data = self.root / "data"
        init = [str(self.bin / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
        subprocess.run(as_postgres(init), check=True, stdout=subprocess.DEVNULL, cwd="/")
        settings = ["listen_addresses=127.0.0.1", f"unix_socket_directories={self.root}", "max_connections=200"]
        command = [str(self.bin / "postgres"), "-D", str(data), "-p", str(self.port)]
        for setting in settings:
            command += ["-c", setting]
        self.server = subprocess.Popen(as_postgres(command), stderr=subprocess.DEVNULL, cwd="/")
        self.databases = 0
        wait_for(lambda: self.sql("postgres", "SELECT 1") == "1", 30)
        self.age()

    def age(self):
        """Leaves segments of the log to be used again, as a cluster has that has been up for a while: in a new one each
        is filled with zeros and synced first, for some 20 ms, in which nobody commits."""
        self.sql("postgres", "ALTER SYSTEM SET min_wal_size = '1GB'")
        self.sql("postgres", "SELECT pg_reload_conf()")
        for _ in range(55):
            self.sql("postgres", "SELECT pg_current_xact_id()")
            self.sql("postgres", "SELECT pg_switch_wal()")
        for _ in range(2):
            self.sql("postgres", "SELECT pg_current_xact_id()")
            self.sql("postgres", "SELECT pg_switch_wal()")
            self.sql("postgres", "CHECKPOINT")

    def sql(self, database, text):
        done = subprocess.run(["psql", "-h", str(self.root), "-p", str(self.port), "-U", "postgres", "-d", database,
                               "-XAtc", text], capture_output=True, text=True)
        return done.stdout.strip()

    def database(self):
        self.databases += 1
        name = f"bench_{self.databases}"
        self.sql("postgres", f"CREATE DATABASE {name}")
        return name

    def cpu(self):
        """User and system seconds of the server and all its processes, ended ones included."""
        pids = [self.server.pid] + children(self.server.pid)
        return sum(cpu_of(pid, ended=pid == self.server.pid) for pid in pids)

    def stop(self):
        self.server.send_signal(signal.SIGINT)
        self.server.wait()
        shutil.rmtree(self.root, ignore_errors=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(true, seconds):
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            raise SystemExit("it did not come to pass in time")
        time.sleep(0.02)


def children(pid):
    found = []
    for stat in glob.glob("/proc/[0-9]*/stat"):
        try:
            fields = open(stat).read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.split("/")[2]))
    return found


def cpu_of(pid, ended=False):
    try:
        fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    ticks = int(fields[11]) + int(fields[12]) + (int(fields[13]) + int(fields[14]) if ended else 0)
    return ticks / os.sysconf("SC_CLK_TCK")


class Store:
    """A fresh store on either database, with a way to ask it."""

    def __init__(self, kind, cluster, folder):
        self.kind, self.cluster = kind, cluster
        if kind == "sqlite":
            self.path = folder / f"bench-{time.monotonic_ns()}.db"
            self.url = f"sqlite:{self.path}"
        else:
            self.name = cluster.database()
            self.url = f"postgres://postgres@127.0.0.1:{cluster.port}/{self.name}"

    def number(self, sql):
        if self.kind == "sqlite":
            with sqlite3.connect(f"file:{self.path}?mode=ro", uri=True) as connection:
                return connection.execute(sql).fetchone()[0] or 0
        return int(self.cluster.sql(self.name, sql) or 0)


class Server:
    """A node of ours."""

    def __init__(self, store, *args, **settings):
        env = {"PATH": os.environ["PATH"], "HOME": "/tmp", "TIDEGATE_STORE": store.url, "TIDEGATE_LOG": "error",
               # The gate is not what is measured.
               "TIDEGATE_BUFFER__MODE": "off", **settings}
        self.cluster = store.cluster if store.kind == "postgres" else None
        self.process = subprocess.Popen([str(BINARY), "serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0",
                                         "--auth", "none", *args], env=env, stderr=subprocess.PIPE, text=True, cwd="/tmp")
        self.port = None
        for line in self.process.stderr:
            if found := re.search(r"ops on http://127.0.0.1:(\d+)", line):
                self.ops = int(found[1])
            if found := re.search(r"listening on http://127.0.0.1:(\d+)", line):
                self.port = int(found[1])
                break
        if self.port is None:
            raise SystemExit("the server did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def cpu(self):
        own = cpu_of(self.process.pid)
        return own + (self.cluster.cpu() if self.cluster else 0.0)

    def finished(self):
        """Runs that it has carried out."""
        return self.carried()[1]

    def carried(self):
        """Runs that it has claimed and that it has ended. By its metrics: counting rows would cost more than what is
        measured."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ops)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        names = ("tidegate_run_queue_wait_seconds_count", "tidegate_runs_finished_total")
        return [sum(int(count) for count in re.findall(rf"^{name}{{[^}}]*}} (\d+)", text, re.M)) for name in names]

    def peak_mib(self):
        status = open(f"/proc/{self.process.pid}/status").read()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


def rate_of_pgbench(cluster, seconds, clients=32):
    name = cluster.database()
    cluster.sql(name, "CREATE TABLE queue (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
                      " state TEXT NOT NULL DEFAULT 'ready', payload JSONB NOT NULL,"
                      " created_at TIMESTAMPTZ NOT NULL DEFAULT now())")
    cluster.sql(name, "CREATE INDEX ON queue (id) WHERE state = 'ready'")
    script = cluster.root / "insert.sql"
    script.write_text(f"INSERT INTO queue (payload) VALUES ('{PAYLOAD}');\n")
    script.chmod(0o644)
    cluster.root.chmod(0o755)
    done = subprocess.run(["pgbench", "-n", "-h", "127.0.0.1", "-p", str(cluster.port), "-U", "postgres", "-M",
                           "prepared", "-c", str(clients), "-j", str(min(clients, 2)), "-T", str(seconds),
                           "-f", str(script), name], capture_output=True, text=True)
    return float(re.search(r"tps = ([\d.]+)", done.stdout)[1])


def wrk(server, folder, connections, seconds):
    script = folder / "post.lua"
    body = json.dumps({"task": "noop", "payload": json.loads(PAYLOAD)})
    script.write_text(f"wrk.method = 'POST'\nwrk.body = [==[{body}]==]\n"
                      "wrk.headers['Content-Type'] = 'application/json'\n")
    done = subprocess.run(["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--latency", "-s", str(script),
                           f"http://127.0.0.1:{server.port}/api/v1/runs"], capture_output=True, text=True)
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)[1])
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    total = int(re.search(r"(\d+) requests in", done.stdout)[1])
    return rate, total, int(errors[1]) if errors else 0


def fill(server, runs, env="default/dev"):
    line = json.dumps({"task": "noop", "payload": json.loads(PAYLOAD)})
    body = {1000: "{\"runs\":[" + ",".join([line] * 1000) + "]}"}
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    headers = {"Content-Type": "application/json", "X-Tidegate-Env": env}
    for _ in range(runs // 1000):
        connection.request("POST", "/api/v1/runs/batch", body[1000], headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"filling failed: {answer.status} {text[:300]}")


def intake(kind, cluster, folder, args, figures):
    """The middle of five rounds, each against an R of its own: a shared machine is not as fast at any two moments."""
    for connections in (32, 64, 256):
        rounds = sorted((accept_round(kind, cluster, folder, args, connections) for _ in range(5)), key=lambda r: r[0])
        ratio, rate, cpu, peak = rounds[2]
        figures[f"accept_{connections}"] = ratio
        print(f"  {kind} accept, {connections} connections: {rate:,.0f}/s = {ratio:.2f} R "
              f"({rounds[0][0]:.2f} to {rounds[4][0]:.2f}), {cpu:.0f} us CPU each, peak {peak:.0f} MiB")


def accept_round(kind, cluster, folder, args, connections):
    before = rate_of_pgbench(cluster, args.seconds)
    store = Store(kind, cluster, folder)
    server = Server(store, "--role", "api")
    began = server.cpu()
    rate, total, errors = wrk(server, folder, connections, args.seconds)
    cpu = (server.cpu() - began) / max(total, 1) * 1e6
    stored = store.number("SELECT COUNT(*) FROM run_records")
    # wrk cuts off what is under way when its time is up: those may be stored and unanswered.
    if errors or not total <= stored <= total + connections:
        raise SystemExit(f"{total} accepted, {stored} stored, {errors} refused")
    peak = server.peak_mib()
    server.stop()
    beside = (before + rate_of_pgbench(cluster, args.seconds)) / 2
    return rate / beside, rate, cpu, peak


def drain(kind, cluster, folder, args, figures):
    store = Store(kind, cluster, folder)
    server = Server(store, "--role", "api")
    fill(server, args.runs)
    server.stop()
    server = Server(store)
    # From the server's own start: connecting and migrating is part of it, and small.
    wait_for(lambda: server.finished() >= args.runs, 120)
    span = store.number("SELECT MAX(finished_at) - MIN(started_at) FROM run_records") / 1000
    rate = args.runs / max(span, 1e-3)
    figures["drain"] = rate / figures["R"]
    figures["peak_mib"] = server.peak_mib()
    print(f"  {kind} drain of {args.runs}: {rate:,.0f}/s = {rate / figures['R']:.2f} R, peak {server.peak_mib():.0f} MiB")
    server.stop()
    cpu_drain(kind, cluster, folder, args, figures)


def cpu_drain(kind, cluster, folder, args, figures):
    """CPU of a drain, without the questions that the other one asks meanwhile."""
    store = Store(kind, cluster, folder)
    server = Server(store, "--role", "api")
    fill(server, args.runs)
    server.stop()
    before = cluster.cpu() if kind == "postgres" else 0.0
    server = Server(store)
    time.sleep(max(3.0, 3 * args.runs / (figures["drain"] * figures["R"])))
    left = store.number("SELECT COUNT(*) FROM run_records WHERE state = 'open'")
    cpu = cpu_of(server.process.pid) + ((cluster.cpu() - before) if kind == "postgres" else 0.0)
    figures["drain_cpu_us"] = cpu / max(args.runs - left, 1) * 1e6
    print(f"  {kind} drain: {figures['drain_cpu_us']:.0f} us CPU a run, all processes ({left} left)")
    server.stop()


class Submitter:
    """Submits runs of an env one by one, and sees them finish in its stream of events."""

    def __init__(self, port, env="default/dev"):
        self.env, self.seen, self.arrived = env, {}, threading.Condition()
        stream = http.client.HTTPConnection("127.0.0.1", port)
        stream.request("GET", "/api/v1/events", headers={"X-Tidegate-Env": env})
        threading.Thread(target=self.follow, args=(stream.getresponse(),), daemon=True).start()
        self.connection = http.client.HTTPConnection("127.0.0.1", port)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def follow(self, stream):
        for line in stream:
            if line.startswith(b'data: {"id":"run_'):
                now = time.perf_counter()
                with self.arrived:
                    self.seen[line[13:43].decode()] = now
                    self.arrived.notify_all()

    def submit(self, body):
        """Milliseconds until it is seen to finish."""
        began = time.perf_counter()
        self.connection.request("POST", "/api/v1/runs", body,
                                {"Content-Type": "application/json", "X-Tidegate-Env": self.env})
        run = json.loads(self.connection.getresponse().read())["id"]
        with self.arrived:
            if not self.arrived.wait_for(lambda: run in self.seen, 30):
                raise SystemExit(f"{run} was not seen to finish")
        return (self.seen[run] - began) * 1000


def latency(kind, cluster, folder, args, figures):
    # What the parts before have left to write is not load of this one.
    os.sync()
    store = Store(kind, cluster, folder)
    server = Server(store)
    client = Submitter(server.port)
    body = json.dumps({"task": "noop", "payload": json.loads(PAYLOAD)})
    spans = []
    for index in range(1_030):
        time.sleep(0.01)
        span = client.submit(body)
        if index >= 30:
            spans.append(span)
    spans.sort()
    # A disk is not as fast at any two moments: two of its commits follow each other in each span.
    row = 1000 / rate_of_pgbench(cluster, 1, clients=1)
    figures["latency_p50_ms"] = statistics.median(spans)
    figures["latency_p99_ms"] = spans[int(len(spans) * 0.99) - 1]
    print(f"  {kind} submit to finished, as a client sees it: p50 {figures['latency_p50_ms']:.2f} ms, "
          f"p99 {figures['latency_p99_ms']:.2f} ms (a row of pgbench with one client: {row:.2f} ms)")
    server.stop()


def backlog(kind, cluster, folder, args, figures):
    """CPU per run out of a small and of a large backlog, without what a server does once when it starts. What
    PostgreSQL has to do after so many rows were written, once and sooner or later, is done before. The middle of three
    rounds: a shared machine is not as fast at any two moments."""
    rounds = sorted((backlog_round(kind, cluster, folder, args) for _ in range(3)), key=lambda r: r[1] / r[0])
    small, large = rounds[1]
    ratios = [large / small for small, large in rounds]
    figures["backlog_ratio"] = ratios[1]
    print(f"  {kind} CPU a run at a backlog of {args.backlog // 100:,}: {small:.0f} us, of {args.backlog:,}: "
          f"{large:.0f} us, ratio {ratios[1]:.2f} ({ratios[0]:.2f} to {ratios[2]:.2f})")


def backlog_round(kind, cluster, folder, args):
    """The small backlog lasts for a fraction of a second, so that many of them are put together, around the large."""
    small_size, rounds = args.backlog // 100, 8
    smalls = [drained(kind, cluster, folder, small_size, small_size) for _ in range(rounds // 2)]
    large = drained(kind, cluster, folder, args.backlog, small_size * rounds)
    smalls += [drained(kind, cluster, folder, small_size, small_size) for _ in range(rounds // 2)]
    return per_run(smalls), per_run([large])


def per_run(windows):
    """Microseconds."""
    return sum(cpu for cpu, _ in windows) / sum(runs for _, runs in windows) * 1e6


def drained(kind, cluster, folder, size, until):
    """CPU seconds that a backlog took until so many runs were done, the first fifth left out, and for how many. What is
    claimed is ahead of what is ended, at the end of a small backlog by nothing: half of a run's cost is in either."""
    store = Store(kind, cluster, folder)
    server = Server(store, "--role", "api", TIDEGATE_LIMITS__MAX_WAITING="100000000")
    fill(server, size)
    server.stop()
    if kind == "postgres":
        cluster.sql(store.name, "VACUUM (ANALYZE)")
        cluster.sql(store.name, "CHECKPOINT")
    server = Server(store)

    def spent():
        return cpu_of(server.process.pid) + (cluster.cpu() if kind == "postgres" else 0.0)

    wait_for(lambda: server.finished() >= min(size, until) // 5, 300)
    first, before = sum(server.carried()), spent()
    wait_for(lambda: server.finished() >= until, 300)
    window = (spent() - before, (sum(server.carried()) - first) / 2)
    server.process.kill()
    server.process.wait()
    return window


PARTS = {"intake": intake, "drain": drain, "latency": latency, "backlog": backlog}


def verdicts(kind, figures):
    missed = []
    for table, holds, word in ((BARS, lambda v, bar: v >= bar, "at least"), (MOST, lambda v, bar: v <= bar, "at most")):
        for name, by_kind in table.items():
            bar = by_kind.get(kind)
            if bar is None or name not in figures:
                continue
            goal = GOALS.get(name, {}).get(kind)
            share = f", {figures[name] / goal * 100:.0f} % of the goal {goal}" if goal else ""
            good = holds(figures[name], bar)
            print(f"  {'ok  ' if good else 'MISS'} {kind} {name}: {figures[name]:.2f} ({word} {bar}{share})")
            if not good:
                missed.append(f"{kind} {name}")
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--part", default="intake,drain,latency")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=50_000)
    parser.add_argument("--backlog", type=int, default=1_000_000)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-bench-files."))
    cluster = Cluster()
    missed = []
    try:
        for kind in ("sqlite", "postgres") if args.database == "both" else (args.database,):
            figures = {"R": rate_of_pgbench(cluster, args.seconds)}
            print(f"{kind}: R = {figures['R']:,.0f} single-row inserts a second (pgbench, 32 clients)")
            for part in args.part.split(","):
                PARTS[part](kind, cluster, folder, args, figures)
            missed += verdicts(kind, figures)
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
    if missed:
        print("missed: " + ", ".join(missed))
    sys.exit(1 if args.check and missed else 0)


if __name__ == "__main__":
    main()
