"""What the checks share: the binary, servers as processes of their own, accounts at the simulated provider, patience.

Standard library only, so that the benchmark can use it without anything installed.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# For everything that is waited for; a slow machine may raise it.
PATIENCE = float(os.environ.get("TIDEGATE_PATIENCE", "60"))

# Everything here is on loopback; a proxy of the environment would take the requests elsewhere.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
# So that the blocks that end servers and remove folders are left in order.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def binary():
    path = Path(os.environ.get("TIDEGATE_BIN") or ROOT / "target/release/tidegate")
    if not os.access(path, os.X_OK):
        sys.exit(f"there is no binary at {path}: run `cargo build --release`, or set TIDEGATE_BIN")
    return str(path.resolve())


def until(what, probe, patience=PATIENCE):
    """The first answer of `probe` that is true; fails when it does not come in time."""
    deadline = time.monotonic() + patience
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:.0f} s in vain for {what}")
        time.sleep(0.02)
    return found


def raises(kind, call):
    """The error of exactly this class that `call` ends with."""
    try:
        answer = call()
    except kind as error:
        assert type(error) is kind, f"{type(error).__name__} instead of {kind.__name__}: {error}"
        return error
    raise AssertionError(f"{kind.__name__} expected, but it was answered: {answer!r}")


def folder():
    return tempfile.TemporaryDirectory(prefix="tidegate-check-")


class Server:
    """A process that says `listening on URL`; it ends with the block."""

    def __init__(self, argv, log, cwd=None):
        self.argv, self.log, self.cwd = argv, Path(log), cwd

    def __enter__(self):
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.argv, cwd=self.cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self.url = until(f"{self.argv[0]} to listen", self.address)
        except BaseException as error:
            self.__exit__()
            # Without it no check means anything.
            sys.exit(f"{' '.join(self.argv[:2])} did not start: {error}")
        return self

    def address(self):
        text = self.log.read_text(errors="replace")
        if self.process.poll() is not None:
            raise AssertionError(f"exit {self.process.returncode}, {text[-2000:].strip() or 'no word'}")
        found = re.search(r"listening on (http://\S+)\s", text)
        return found and found[1]

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def sim(state, latency="300ms"):
    """The simulated provider; what may be made to go wrong is set for each account."""
    state = Path(state)
    argv = [binary(), "sim", "--listen", "127.0.0.1:0", "--state", str(state / "sim"), "--latency", latency]
    return Server(argv, state / "sim.log")


class Account:
    """A key of its own at the simulated provider, so that the checks do not see each other's batches."""

    def __init__(self, sim, **faults):
        self.url, self.key = sim.url, f"key-{uuid.uuid4().hex}"
        if faults:
            self.faults(**faults)

    def faults(self, **faults):
        self.ask("PUT", "/sim/faults", faults)

    def ledger(self):
        return self.ask("GET", "/sim/ledger")

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"authorization": f"Bearer {self.key}"}, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def environment(self, provider):
        base = self.url + "/v1" if provider == "openai" else self.url
        return provider_environment(provider, base, self.key)


def provider_environment(provider, base_url, key):
    """The environment of a `tidegate process`: nothing of the caller's settings, and this provider."""
    foreign = ("TIDEGATE_", "OPENAI_", "ANTHROPIC_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    name = provider.upper()
    return environment | {f"{name}_API_KEY": key, f"{name}_BASE_URL": base_url}


def requests(protocol, count, tag="line"):
    """Lines of an input file in the protocol's form, as objects."""
    for number in range(count):
        params = {"model": "gpt-5-mini" if protocol == "openai" else "claude-haiku-4-5", "max_tokens": 20}
        params["messages"] = [{"role": "user", "content": f"Say {tag} {number}."}]
        custom_id = f"{tag}-{number}"
        if protocol == "openai":
            yield {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": params}
        else:
            yield {"custom_id": custom_id, "params": params}


def jsonl(objects):
    return "".join(json.dumps(each) + "\n" for each in objects).encode()


def process(place, provider, environment, lines, *options):
    """Runs `tidegate process` over these lines in this folder; gives its summary and the result lines."""
    place = Path(place)
    source, out = place / "in.jsonl", place / "out.jsonl"
    source.write_bytes(jsonl(lines))
    argv = [binary(), "process", str(source), "--out", str(out), "--provider", provider]
    argv += ["--store", f"sqlite:{place / 'store.db'}", "--settle", "1s", "--poll", "100ms", "-o", "json", *options]
    # In the folder, so that no tidegate.toml of the caller's is read.
    done = subprocess.run(argv, cwd=place, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode == 0, f"tidegate process ended with {done.returncode}: {done.stderr[-3000:]}"
    return json.loads(done.stdout), [json.loads(line) for line in out.read_text().splitlines()]


def run(checks, *given):
    """Runs the checks in their order; one line each, and a failure's trace on stderr."""
    name, failed = Path(sys.argv[0]).stem, 0
    for check in checks:
        title = f"{name} {check.__name__}"
        try:
            check(*given)
            print(f"ok {title}", flush=True)
        except Exception as error:
            failed += 1
            traceback.print_exc()
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"FAIL {title}: {reason[:500]}", flush=True)
    sys.exit(1 if failed else 0)


def run_all(scripts):
    """Runs the scripts one after the other and counts their lines."""
    counts = {"ok": 0, "FAIL": 0, "skip": 0}
    for script in scripts:
        argv = [sys.executable, str(Path(__file__).with_name(script))]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        failed = 0
        try:
            for line in child.stdout:
                print(line, end="", flush=True)
                word = line.split(" ", 1)[0]
                if word in counts:
                    counts[word] += 1
                    failed += word == "FAIL"
            code = child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        if code != 0 and failed == 0:
            counts["FAIL"] += 1
            print(f"FAIL {script}: it ended with {code}", flush=True)
    skipped = f", {counts['skip']} skipped" if counts["skip"] else ""
    print(f"{counts['ok']} passed, {counts['FAIL']} failed{skipped}")
    sys.exit(1 if counts["FAIL"] or not counts["ok"] else 0)


if __name__ == "__main__":
    run_all(sys.argv[1:])
