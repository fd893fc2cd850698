#!/usr/bin/env python3
"""Starts `tidegate serve` on each database, with a key of all scopes, and lets schemathesis loose on it."""
import glob
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
BINARY = pathlib.Path(os.environ.get("TIDEGATE_BIN") or HERE.parents[1] / "target/release/tidegate").resolve()
SCOPES = "runs:read,runs:write,workers,queues:write,buffer:read,jobs:read,jobs:write,admin,chaos"
SEED = os.environ.get("TIDEGATE_SEED") or "1"
SOAK = bool(os.environ.get("TIDEGATE_SOAK"))
CONFIG = """
[tasks.work]
kind = "pull"
[tasks.hello]
kind = "exec"
program = "/bin/echo"
args = ["hello"]
[tasks.ask]
kind = "llm"
provider = "nobody"
[providers.nobody]
protocol = "openai"
base_url = "http://127.0.0.1:9/v1"
api_key_file = "nobody.key"
[sessions.review]
initial = "context"
edges = { context = ["synthesis"], synthesis = ["complete"] }
"""
# Streams of events end when a run does or never; `serve_*` and `security` follow them.
STREAMS = ["runs_events", "events", "jobs_events"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, true, seconds=60):
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            raise SystemExit(f"{what}: not within {seconds} s")
        time.sleep(0.05)


class Cluster:
    """A PostgreSQL cluster of its own; it need not survive anything."""

    def __init__(self, folder):
        self.bin = pathlib.Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
        root = folder / "cluster"
        root.mkdir()
        self.prefix = []
        if os.geteuid() == 0:
            folder.chmod(0o755)
            shutil.chown(root, "postgres", "postgres")
            self.prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]
        port, data = free_port(), root / "data"
        init = [self.bin / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
        subprocess.run([*self.prefix, *init], check=True, stdout=subprocess.DEVNULL, cwd="/")
        settings = ["listen_addresses=127.0.0.1", f"unix_socket_directories={root}", "fsync=off"]
        command = [self.bin / "postgres", "-D", data, "-p", str(port)]
        command += [part for setting in settings for part in ("-c", setting)]
        self.process = subprocess.Popen([*self.prefix, *command], stderr=subprocess.DEVNULL, cwd="/")
        ready = [self.bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_for("PostgreSQL takes connections", lambda: subprocess.run(ready).returncode == 0)
        self.url = f"postgres://postgres@127.0.0.1:{port}/postgres"

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Server:
    def __init__(self, folder, store):
        config = folder / "tidegate.toml"
        config.write_text(CONFIG)
        (folder / "nobody.key").write_text("a key for nobody\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        env = {**kept, "TIDEGATE_STORE": store, "HOME": str(folder)}
        make = [BINARY, "keys", "create", "--env", "acme/dev", "--scope", SCOPES]
        made = subprocess.run(make, env=env, cwd=folder, check=True, capture_output=True, text=True)
        self.key = made.stdout.strip()
        listen = ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--auth", "keys", "--config", config]
        self.process = subprocess.Popen([BINARY, "serve", *listen], env=env, cwd=folder, stderr=subprocess.PIPE, text=True)
        self.lines, self.url = [], None
        threading.Thread(target=self.read, daemon=True).start()
        wait_for("the server listens", lambda: self.url)

    def read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            found = re.match(r"listening on (http://\S+)", line)
            if found:
                self.url = found.group(1)

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api/v1{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def runs(self):
        """Runs in several states, as ids: ended, waiting, delayed, cancelled."""
        ids = [self.call("POST", "/runs", {"task": task})["id"] for task in ("noop", "hello", "work", "work")]
        ids.append(self.call("POST", "/runs", {"task": "noop", "delay_seconds": 86400})["id"])
        self.call("POST", f"/runs/{ids[3]}/cancel")
        wait_for("the first runs end", lambda: all(self.call("GET", f"/runs/{run}")["finished_at"] for run in ids[:2]))
        return ids

    def jobs(self):
        """One that is over and one that stands, as ids."""
        ids = [self.call("POST", "/jobs", {"pool": "ask", "source": source})["id"] for source in ("backfill", "daemon")]
        wait_for("the first job ends", lambda: self.call("GET", f"/jobs/{ids[0]}")["finished_at"])
        return ids

    def sessions(self):
        """One at each phase, and one that is closed, as ids."""
        ids = [self.call("POST", "/sessions", {"type": "review"})["id"] for _ in range(4)]
        for session in ids[1:3]:
            self.call("POST", f"/sessions/{session}/transition", {"phase": "synthesis"})
        self.call("POST", f"/sessions/{ids[2]}/complete-round", {})
        self.call("POST", f"/sessions/{ids[3]}/close", {"outcome": "aborted"})
        return ids

    def stop(self):
        self.process.terminate()
        if self.process.wait(60) != 0:
            raise SystemExit(f"the server ended with {self.process.returncode}:\n" + "\n".join(self.lines[-20:]))
        bad = [line for line in self.lines if " ERROR " in line or "panicked" in line]
        if bad:
            raise SystemExit("the server complained:\n" + "\n".join(bad))


def check(database):
    with tempfile.TemporaryDirectory(prefix="tidegate-schemathesis.") as name:
        folder = pathlib.Path(name)
        cluster = Cluster(folder) if database == "postgres" else None
        try:
            server = Server(folder, cluster.url if cluster else f"sqlite:{folder / 'state.sqlite'}")
            try:
                code = schemathesis(server, folder)
            finally:
                server.stop()
        finally:
            if cluster:
                cluster.stop()
        return code


def narrowed(server, folder):
    """The document as it is served, with what only this server can know: the key's env, and the tasks."""
    with urllib.request.urlopen(f"{server.url}/api/openapi.json", timeout=30) as answer:
        document = json.load(answer)
    parts = document["components"]
    parts["parameters"]["env"]["schema"] = {"type": "string", "enum": ["acme/dev"]}
    parts["schemas"]["RunCreate"]["properties"]["task"] = {"type": "string", "enum": ["noop", "hello", "work"]}
    parts["schemas"]["JobCreate"]["properties"]["pool"] = {"type": "string", "enum": ["ask"]}
    parts["schemas"]["SessionOpen"]["properties"]["type"] = {"type": "string", "enum": ["review"]}
    phases = {"type": "string", "enum": ["context", "synthesis", "complete"]}
    parts["schemas"]["SessionTransition"]["properties"]["phase"] = phases
    tasks = {"type": "array", "items": {"type": "string", "enum": ["work"]}, "maxItems": 50}
    parts["schemas"]["LeaseRequest"]["properties"]["tasks"] = tasks
    # Nobody is to wait here: neither for runs that do not come, nor for runs that nobody carries out.
    del parts["schemas"]["LeaseRequest"]["properties"]["wait_seconds"]
    output = document["paths"]["/runs/{id}/output"]["get"]
    output["parameters"] = [one for one in output["parameters"] if not one["$ref"].endswith("/follow")]
    file = folder / "openapi.json"
    file.write_text(json.dumps(document))
    return file


def schemathesis(server, folder):
    program = pathlib.Path(sys.executable).parent / "schemathesis"
    command = [program, "--config-file", HERE / "schemathesis.toml", "run", narrowed(server, folder)]
    command += ["--url", f"{server.url}/api/v1"]
    command += ["--header", f"Authorization: Bearer {server.key}", "--seed", SEED]
    # One worker: with more threads Python 3.11 fails now and then where schemathesis reads its own lambdas.
    command += ["--workers", "1"]
    command += ["--max-examples", "400" if SOAK else "30", "--request-timeout", "40"]
    for stream in STREAMS:
        command += ["--exclude-operation-id", stream]
    made = {"RIG_RUNS": ",".join(server.runs()), "RIG_JOBS": ",".join(server.jobs())}
    made["RIG_SESSIONS"] = ",".join(server.sessions())
    env = {**os.environ, **made, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)}
    return subprocess.run(command, env=env, cwd=folder).returncode


def main():
    databases = sys.argv[1:] or ["sqlite", "postgres"]
    unknown = [name for name in databases if name not in ("sqlite", "postgres")]
    if unknown:
        raise SystemExit(f"unknown database {unknown[0]}: use sqlite or postgres")
    if not BINARY.is_file():
        raise SystemExit(f"{BINARY} is not there: run cargo build --release --workspace first")
    failed = []
    for database in databases:
        began = time.monotonic()
        print(f"--- {database}, seed {SEED}", flush=True)
        if check(database) != 0:
            failed.append(database)
        print(f"--- {database}: {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        raise SystemExit("not as the document says on " + " and ".join(failed))


main()
