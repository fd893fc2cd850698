"""What manifests and units say to the binary, held against the binary: arguments, variables, settings; and one
walk as a cluster would go it, with the containers as they are rendered."""

import json
import re
import shlex
import signal
import subprocess
import time
import urllib.error
import urllib.request

import host
from pods import PROBES, STOP_SECONDS
from render import RENDERED, configuration, full, title, workloads
from shared import ENVIRONMENT, ROOT, SCRATCH, run, tidegate

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def accepts():
    files = (file for crate in ["storage", "actors", "gateway"] for file in (ROOT / crate).rglob("*.rs"))
    sources = "".join(file.read_text() for file in files)
    for (arguments, variables, settings), places in sorted(commands().items()):
        env = dict(variables)
        for why in refused(arguments, env, settings, sources):
            yield f"{sorted(places)[0]}: {why}"
    for rendered in RENDERED:
        for thing in rendered.objects:
            for query in queries(thing):
                yield from (f"{rendered.name}: {title(thing)}: {why}" for why in unasked(query, sources))


def commands():
    """(arguments, variables, settings) of everything that starts the binary, with the places that do."""
    found = {}
    for rendered in RENDERED:
        for thing, template in workloads(rendered):
            container = template["spec"]["containers"][0]
            env = {variable["name"]: variable["value"] for variable in container["env"]}
            key = (tuple(container["args"]), tuple(sorted(env.items())), configuration(rendered))
            found.setdefault(key, set()).add(f"{rendered.name}: {title(thing)}")
    for name, service in host.composed()["services"].items():
        if service["image"].startswith("tidegate:"):
            key = (tuple(service["command"]), tuple(sorted(service["environment"].items())), "")
            found.setdefault(key, set()).add(f"compose.yaml: {name}")
    unit = host.directives()
    env = dict(line.split("=", 1) for lines in unit["Environment"] for line in shlex.split(lines))
    arguments = shlex.split(unit["ExecStart"][0])[1:]
    settings = (ROOT / "ops/tidegate.toml").read_text()
    found[(tuple(arguments), tuple(sorted(env.items())), settings)] = {"tidegate.service"}
    return found


def refused(arguments, env, settings, sources):
    for name in env:
        if name.startswith("TIDEGATE_") and "__" not in name and f'"{name}"' not in sources:
            yield f"the sources do not know the variable {name}"
    # What comes before is read first, so that an unknown option or value is told, and help only if there is none.
    code, _, err = run(tidegate(), *arguments, "--help", env=env)
    if code != 0:
        yield f"`tidegate {' '.join(arguments)}`: {' '.join(err.split())}"
    file = SCRATCH / "tidegate.toml"
    file.write_text(settings)
    # Every command reads the configuration; this one then opens nothing.
    code, _, err = run(tidegate(), "openapi", env=env | {"TIDEGATE_CONFIG": str(file)})
    if code != 0:
        yield f"its settings: {' '.join(err.split())}"


def queries(thing):
    """PromQL in autoscalers."""
    triggers = thing["spec"]["triggers"] if thing["kind"] == "ScaledObject" else []
    yield from (trigger["metadata"]["query"] for trigger in triggers if trigger["type"] == "prometheus")


def unasked(query, sources):
    for metric in re.findall(r"tidegate_\w+", query):
        if f'"{metric}"' not in sources:
            yield f"the sources do not know the metric {metric}"
    rules = SCRATCH / "rules.yaml"
    rules.write_text(json.dumps({"groups": [{"name": "query", "rules": [{"record": "query", "expr": query}]}]}))
    code, out, err = run("promtool", "check", "rules", rules)
    if code != 0:
        yield f"`{query}`: {' '.join((out + err).split())}"


class Container:
    """A container of a rendered pod as a process: its mounts are folders, its ports are free ones."""

    def __init__(self, place, settings, template, more=()):
        self.spec = template["spec"]["containers"][0]
        (place / "config").mkdir(parents=True, exist_ok=True)
        (place / "config/tidegate.toml").write_text(settings)
        paths = {}
        for mount in self.spec["volumeMounts"]:
            (place / mount["name"]).mkdir(exist_ok=True)
            paths[mount["mountPath"]] = str(place / mount["name"])
        there = lambda text: re.sub("|".join(map(re.escape, paths)), lambda found: paths[found[0]], text)
        self.arguments = [str(tidegate()), *(there(word) for word in self.spec["args"]), *more]
        self.env = ENVIRONMENT | {variable["name"]: there(variable["value"]) for variable in self.spec["env"]}
        self.env |= {"TIDEGATE_SERVER__LISTEN": "127.0.0.1:0", "TIDEGATE_SERVER__OPS_LISTEN": "127.0.0.1:0"}
        self.env["TMPDIR"] = paths["/tmp"]

    def run(self):
        return subprocess.run(self.arguments, env=self.env, capture_output=True, text=True, timeout=60)

    def start(self, log):
        return subprocess.Popen(self.arguments, env=self.env, stderr=log.open("w"), stdout=subprocess.DEVNULL)


def serves():
    """As k8s/README.md has it: a key by the Job, then the server of the StatefulSet; and what the other Job would
    buy."""
    place = SCRATCH / "walk"
    found = {}
    for rendered in full():
        for _, template in workloads(rendered):
            found[rendered.overlay] = (configuration(rendered), template)
    made = Container(place, *found["sqlite-key"]).run()
    key = made.stdout.strip()
    if made.returncode != 0 or not re.search(r"tg_\S+", key):
        yield f"sqlite-key: exit {made.returncode}: {made.stderr.strip()}"
        return
    yield from served(Container(place, *found["sqlite-single"]), re.search(r"tg_\S+", key)[0], place / "log")
    settings, template = found["process-job"]
    settings = re.sub(r'"/run/secrets/tidegate/(\w+)"', lambda name: f'"{place}/keys/{name[1]}"', settings)
    job = Container(place / "job", settings, template, more=["--dry-run"])
    (place / "job/data/requests.jsonl").write_text((ROOT / "ops/examples/requests.jsonl").read_text())
    (place / "keys/openai").write_text("sk-none")
    done = job.run()
    if done.returncode != 0:
        yield f"process-job: exit {done.returncode}: {done.stderr.strip()}"


def served(container, key, log):
    process = container.start(log)
    try:
        api, ops = (until(said(log, mark), process) for mark in ["listening on ", "ops on "])
        if not (api and ops):
            yield f"sqlite-single: it does not listen: {log.read_text().strip()}"
            return
        for name, (path, _) in PROBES.items():
            if not until(lambda: answer(ops, path) == 200, process):
                yield f"sqlite-single: {name}: {path} answers {answer(ops, path)}"
        for token, wanted in [(key, 201), (None, 401)]:
            code = answer(api, "/api/v1/runs", token, {"task": "noop", "payload": {}})
            if code != wanted:
                how = "with" if token else "without"
                yield f"sqlite-single: a run {how} a key is answered by {code} and not {wanted}"
        process.send_signal(signal.SIGTERM)
        if (code := process.wait(25 + STOP_SECONDS)) != 0:
            yield f"sqlite-single: it stops with {code}: {log.read_text().strip()}"
        text = log.read_text()
        if "chaos: there is no" in text or "kills carried out" not in text:
            yield f"sqlite-single: chaos was not carried out: {text.strip()}"
    finally:
        process.kill()
        process.wait()


def said(log, mark):
    return lambda: (found := re.search(mark + r"(http://[\d.:]+)", log.read_text())) and found[1]


def until(probe, process, patience=30):
    deadline = time.monotonic() + patience
    while not (found := probe()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def answer(server, path, key=None, body=None):
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(server + path, json.dumps(body).encode() if body else None, headers)
    try:
        return OPENER.open(request, timeout=10).status
    except urllib.error.HTTPError as refusal:
        return refusal.code
    except OSError as error:
        return str(error)
