"""What is not for Kubernetes: the Dockerfile, compose.yaml, the systemd unit; and checkov, which reads both."""

import json
import re
import shutil

import yaml as reader

from accepted import ACCEPTED
from pods import STOP_SECONDS, settings
from render import RENDERED, full, workloads
from shared import HERE, ROOT, SCRATCH, complaint, run, tidegate

# Exposure as systemd counts it, in tenths, up to 100.
EXPOSURE_MAX = 20
GENERATED = "compose/secrets/"


def yaml():
    places = [ROOT / "k8s", ROOT / "ops/compose.yaml", ROOT / "ops/compose", HERE]
    _, out, err = run("yamllint", "--strict", "--format=parsable", f"--config-file={HERE / 'yamllint.yaml'}", *places)
    yield from (line.replace(f"{ROOT}/", "") for line in (out + err).splitlines())


def checkov():
    place = SCRATCH / "checkov"
    place.mkdir()
    # Plain overlays would lack network policies, which are a choice; everything else is the same with them.
    for number, rendered in enumerate(full()):
        shutil.copy(rendered.file, place / f"{number}-{rendered.overlay}.yaml")
    shutil.copy(ROOT / "ops/Dockerfile", place)
    code, out, err = run(
        "checkov", "--directory", place, "--framework", "kubernetes", "dockerfile", "--skip-download", "--quiet",
        "--compact", "--soft-fail", "--output", "json"
    )
    if code != 0:
        yield f"it did not run: exit {code}: {err.strip()}"
        return
    seen = set()
    reports = {report["check_type"]: report for report in json.loads(out)}
    for kind in ["kubernetes", "dockerfile"]:
        if reports.get(kind, {}).get("summary", {}).get("passed", 0) == 0:
            yield f"it has read nothing of {kind}"
    for report in reports.values():
        yield from (f"{file} was not understood" for file in report["results"].get("parsing_errors", []))
        for found in report["results"]["failed_checks"]:
            seen.add(found["check_id"])
            if found["check_id"] not in ACCEPTED:
                yield f"{found['file_path']}: {found['resource']}: {found['check_id']}: {found['check_name']}"
    yield from (f"{name} is accepted, and not found any more" for name in ACCEPTED.keys() - seen)


def dockerfile():
    path = ROOT / "ops/Dockerfile"
    yield from complaint("hadolint", "--no-color", path)
    lines = re.sub(r"\\\n\s*", "", path.read_text()).splitlines()
    words = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    bases = [rest for word, rest in words if word == "FROM"]
    if bases[-1] != "scratch" or any(not re.search(r":\d+\.\d+\.\d+", base) for base in bases[:-1]):
        yield f"the images that it begins with are {bases}: pinned ones, and in the end nothing"
    # The last of each is what the image has.
    last = {word: rest for word, rest in words}
    pod = next(template["spec"] for _, template in workloads(RENDERED[0]))
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    expected = {"USER": user, "ENTRYPOINT": '["/tidegate"]', "STOPSIGNAL": "SIGTERM", "EXPOSE": "7070 7071"}
    for word, wanted in expected.items():
        if last.get(word) != wanted:
            yield f"{word} is {last.get(word)} and not {wanted}"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for word, rest in words:
        copied = rest.split()[:-1] if word == "COPY" and not rest.startswith("--from") else []
        for source in copied:
            if not (ROOT / source).exists() or f"!{source}" not in ignored:
                yield f"{source} is not there, or .dockerignore does not let it in"
    if "*" not in ignored or "ops/compose" not in ignored:
        yield ".dockerignore lets secrets into the build"


def composed():
    return reader.safe_load((ROOT / "ops/compose.yaml").read_text())


def compose():
    file = ROOT / "ops/compose.yaml"
    code, out, err = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)
    if code != 0:
        yield " ".join((out + err).split())
        return
    whole = composed()
    for name, service in whole["services"].items():
        yield from (f"{name}: {why}" for why in unfit(whole, name, service))
    for kind in ["secrets", "configs"]:
        used = {reference(one) for service in whole["services"].values() for one in service.get(kind, [])}
        yield from (f"{kind}: {name} is declared, and not used" for name in whole[kind].keys() - used)
        for name, one in whole[kind].items():
            if one["file"].startswith(GENERATED):
                if one["file"].removeprefix(GENERATED) not in (ROOT / "ops/compose/make-secrets.sh").read_text():
                    yield f"{kind}: make-secrets.sh does not make {one['file']}"
            elif not (ROOT / "ops" / one["file"]).is_file():
                yield f"{kind}: there is no ops/{one['file']}"
    nodes = [name for name, service in whole["services"].items() if service.get("command", [""])[0] == "serve"]
    if len(nodes) < 3:
        yield f"the nodes are {nodes}: less than three"


def reference(one):
    return one if isinstance(one, str) else one["source"]


def unfit(whole, name, service):
    if not re.search(r":v?\d+\.\d+", service.get("image", "")):
        yield f"the image {service.get('image')} is not pinned"
    for kind in ["secrets", "configs"]:
        for one in service.get(kind, []):
            if reference(one) not in whole[kind]:
                yield f"there is no {reference(one)} among the {kind}"
    for volume in service.get("volumes", []):
        if volume.split(":")[0] not in whole["volumes"]:
            yield f"there is no volume {volume}"
    for port in service.get("ports", []):
        if not port.startswith("127.0.0.1:"):
            yield f"the port {port} is open to other machines"
    for other, how in service.get("depends_on", {}).items():
        if other not in whole["services"]:
            yield f"it depends on {other}, which is no service"
        elif how["condition"] == "service_healthy" and "healthcheck" not in whole["services"][other]:
            yield f"it waits for {other} to be healthy, which has no health check"
    for variable, value in service.get("environment", {}).items():
        if re.search("PASSWORD|SECRET|KEY", variable) and not variable.endswith("_FILE"):
            yield f"{variable} is a secret in the environment"
        mounted = [f"/run/secrets/{reference(one)}" for one in service.get("secrets", [])]
        if value.startswith("/run/secrets/") and value not in mounted:
            yield f"{variable} names {value}, which is not mounted"
    if service["image"].startswith("tidegate:"):
        yield from open_node(service)


def open_node(service):
    closed = [service.get("read_only"), service.get("cap_drop"), service.get("security_opt")]
    if closed != [True, ["ALL"], ["no-new-privileges:true"]]:
        yield f"it is not closed: {closed}"
    if service["command"][0] != "serve":
        return
    if service["depends_on"].get("migrate", {}).get("condition") != "service_completed_successfully":
        yield "it does not wait for the migration"
    grace = int(service["stop_grace_period"].removesuffix("s"))
    if not grace > drain_seconds() + STOP_SECONDS:
        yield f"a stop is given {grace} s, which is less than it may take"


def drain_seconds():
    return settings(RENDERED[0])["server"]["drain_seconds"]


def prometheus():
    file = ROOT / "ops/compose/prometheus.yml"
    code, out, err = run("promtool", "check", "config", file)
    if code != 0:
        yield " ".join((out + err).split())
        return
    services = composed()["services"]
    nodes = {
        f"{name}:{word.rpartition(':')[2]}"
        for name, service in services.items() if service["image"].startswith("tidegate:")
        for word in service["command"] if word.startswith("--ops-listen=")
    }
    jobs = {job["job_name"]: job for job in reader.safe_load(file.read_text())["scrape_configs"]}
    targets = {target for one in jobs["tidegate"]["static_configs"] for target in one["targets"]}
    if targets != nodes:
        yield f"it scrapes {sorted(targets)}, and the nodes are {sorted(nodes)}"
    sources = reader.safe_load((ROOT / "ops/compose/grafana-datasources.yaml").read_text())["datasources"]
    if [source["url"] for source in sources] != ["http://prometheus:9090"] or "prometheus" not in services:
        yield "Grafana does not ask the Prometheus of compose.yaml"


def directives():
    """Every directive of the unit with its values."""
    found = {}
    for line in (ROOT / "ops/tidegate.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            found.setdefault(name, []).append(value)
    return found


def unit():
    # The program that it names must be there to be found good.
    place = SCRATCH / "unit"
    place.mkdir()
    text = (ROOT / "ops/tidegate.service").read_text()
    file = place / "tidegate.service"
    file.write_text(text.replace("/usr/local/bin/tidegate", str(tidegate())))
    # What it finds wrong it may only say, and end with 0.
    yield from complaint("systemd-analyze", "verify", "--man=no", file)
    code, out, err = run(
        "systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", "--no-pager", file
    )
    if code != 0:
        yield " ".join((err + "\n".join(out.splitlines()[-1:])).split())
    found = directives()
    expected = {
        "Type": "exec", "KillMode": "mixed", "Restart": "on-failure", "RestartPreventExitStatus": "2",
        "OOMPolicy": "continue", "User": "tidegate", "StateDirectory": "tidegate", "ProtectSystem": "strict",
        "NoNewPrivileges": "yes",
    }
    for name, wanted in expected.items():
        if found.get(name) != [wanted]:
            yield f"{name} is {found.get(name)} and not {wanted}"
    if not float(found["TimeoutStopSec"][0]) > drain_seconds() + STOP_SECONDS:
        yield f"a stop is given {found['TimeoutStopSec'][0]} s, which is less than it may take"
