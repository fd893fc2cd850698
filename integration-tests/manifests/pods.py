"""Statements about every pod: the restricted Pod Security Standard and more, probes, the time for a stop."""

import tomllib

from render import RENDERED, configuration, title, workloads
from shared import ROOT

PROBES = {
    "startupProbe": ("/startupz", "ops"),
    "livenessProbe": ("/livez", "ops"),
    "readinessProbe": ("/readyz", "ops"),
}
# What a stop may take besides the wait for runs, in gateway/src/serve.rs: open requests, settlement, leaving the
# store, closing it.
STOP_SECONDS = 10 + 10 + 5 + 5


def every(check):
    def findings():
        for rendered in RENDERED:
            for thing, template in workloads(rendered):
                for why in check(rendered, thing, template["spec"]):
                    yield f"{rendered.name}: {title(thing)}: {why}"

    return findings


def wrong(*expected):
    """What is not as expected, of (name, found, wanted)."""
    return [f"{name} is {found!r} and not {wanted!r}" for name, found, wanted in expected if found != wanted]


@every
def restricted(rendered, thing, spec):
    context = spec.get("securityContext", {})
    yield from wrong(
        ("runAsNonRoot", context.get("runAsNonRoot"), True),
        ("seccompProfile", context.get("seccompProfile"), {"type": "RuntimeDefault"}),
        ("automountServiceAccountToken", spec.get("automountServiceAccountToken"), False),
        ("enableServiceLinks", spec.get("enableServiceLinks"), False),
    )
    if not context.get("runAsUser", 0) > 10_000 or not context.get("runAsGroup", 0) > 10_000:
        yield "user and group are not above 10000"
    for field in ["hostNetwork", "hostPID", "hostIPC", "hostUsers", "initContainers", "ephemeralContainers"]:
        if field in spec:
            yield f"it has {field}"
    for volume in spec.get("volumes", []):
        if not volume.keys() & {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}:
            yield f"the volume {volume['name']} is of no allowed kind"
        # By its group alone, which is the pod's: a number in decimal is easily mistaken for one in octal.
        if "secret" in volume and volume["secret"].get("defaultMode") != 0o440:
            yield f"the mode of the secret {volume['name']} is {volume['secret'].get('defaultMode')} and not 0440"
    for container in spec["containers"]:
        yield from closed(container)
        written = [mount for mount in container["volumeMounts"] if not mount.get("readOnly")]
        if "/tmp" not in [mount["mountPath"] for mount in written]:
            yield "nothing can be written to /tmp"


def closed(container):
    context = container.get("securityContext", {})
    yield from wrong(
        ("the container's name", container["name"], "tidegate"),
        ("allowPrivilegeEscalation", context.get("allowPrivilegeEscalation"), False),
        ("readOnlyRootFilesystem", context.get("readOnlyRootFilesystem"), True),
        ("capabilities", context.get("capabilities"), {"drop": ["ALL"]}),
        ("privileged", context.get("privileged", False), False),
    )
    resources = container.get("resources", {})
    for kind in ["requests", "limits"]:
        for resource in ["cpu", "memory"]:
            if resource not in resources.get(kind, {}):
                yield f"it has no {kind}.{resource}"
    if resources.get("requests", {}).get("memory") != resources.get("limits", {}).get("memory"):
        yield "more memory is allowed than requested, so that it may be evicted for using it"
    # With a registry's port there may be a colon before the tag.
    tag = container["image"].rpartition("/")[2].replace("@sha256", "").partition(":")[2]
    if tag in {"", "latest"}:
        yield f"the image {container['image']} is not pinned"
    # The image has no shell and nothing else to run.
    if "command" in container:
        yield "it replaces the image's entry point"
    for variable in container.get("env", []):
        if "value" not in variable:
            yield f"{variable['name']} comes from elsewhere: secrets are mounted as files"


def settings(rendered):
    """The sections of the configuration that the rendered pods mount, with their defaults."""
    defaults = tomllib.loads((ROOT / "ops/tidegate.toml").read_text())
    laid = tomllib.loads(configuration(rendered))
    return {section: defaults.get(section, {}) | laid.get(section, {}) for section in defaults.keys() | laid.keys()}


@every
def servers(rendered, thing, spec):
    container = spec["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    if thing["kind"] == "Job":
        # Nobody sends a Job requests; but one that takes long may hang.
        alive = container.get("livenessProbe", {}).get("httpGet", {}).get("path")
        if container["args"][0] == "process" and alive != "/livez":
            yield "nobody would notice that it hangs"
        return
    server = settings(rendered)["server"]
    for name, (path, port) in PROBES.items():
        found = container.get(name, {}).get("httpGet", {})
        yield from wrong((name, (found.get("path"), found.get("port")), (path, port)))
    answers = any(word.startswith("--role=") and ("api" in word or "all" in word) for word in container["args"])
    for name, setting in [("api", "listen")] * answers + [("ops", "ops_listen")]:
        host, _, port = server[setting].rpartition(":")
        yield from wrong((f"the port {name}", ports.get(name), int(port)), (f"server.{setting}", host, "0.0.0.0"))
    sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    needed = sleep + server["drain_seconds"] + STOP_SECONDS
    if sleep < 3:
        yield f"it stops {sleep} s after it was taken out of service, while requests still come in"
    if not spec.get("terminationGracePeriodSeconds", 30) > needed:
        yield f"a stop may take {needed:.0f} s, and is given {spec.get('terminationGracePeriodSeconds', 30)} s"
    if "--auth=keys" not in container["args"]:
        yield "it may answer without a key"


def fleet():
    """What keeps some nodes there while others come and go."""
    for rendered in RENDERED:
        of_kind = lambda kind: [thing for thing in rendered.objects if thing["kind"] == kind]
        for thing in of_kind("StatefulSet"):
            yield from (f"{rendered.name}: {title(thing)}: {why}" for why in single(thing))
        budgets = [(thing["spec"]["selector"], thing["spec"]) for thing in of_kind("PodDisruptionBudget")]
        scaled = "hpa" in rendered.components
        for thing in of_kind("Deployment"):
            for why in several(thing, budgets, scaled):
                yield f"{rendered.name}: {title(thing)}: {why}"
        if rendered.overlay == "postgres-many":
            steps = [template["spec"]["containers"][0]["args"] for _, template in workloads(rendered)]
            if ["db", "migrate"] not in steps:
                yield f"{rendered.name}: nothing migrates"
            roles = {word for args in steps for word in args if word.startswith("--role=")}
            if roles != {"--role=api", "--role=worker,poller,sweeper"}:
                yield f"{rendered.name}: the roles are {roles}"
        for thing in of_kind("Namespace"):
            labels, modes = thing["metadata"]["labels"], ["enforce", "audit", "warn"]
            levels = [labels.get(f"pod-security.kubernetes.io/{mode}") for mode in modes]
            yield from wrong((f"{rendered.name}: the namespace's standard", levels, ["restricted"] * 3))
        denied = [thing for thing in of_kind("NetworkPolicy") if thing["spec"]["podSelector"] == {}]
        if "networkpolicy" in rendered.components:
            rules = [thing["spec"] for thing in denied if not thing["spec"].keys() & {"ingress", "egress"}]
            if [sorted(rule["policyTypes"]) for rule in rules] != [["Egress", "Ingress"]]:
                yield f"{rendered.name}: what no policy names is not denied"


def single(thing):
    claims = [claim["spec"]["accessModes"] for claim in thing["spec"]["volumeClaimTemplates"]]
    yield from wrong(("replicas", thing["spec"]["replicas"], 1), ("access", claims, [["ReadWriteOncePod"]]))


def several(thing, budgets, scaled):
    spec, labels = thing["spec"], thing["spec"]["template"]["metadata"]["labels"]
    if not scaled and spec.get("replicas", 1) < 2:
        yield "it has less than two replicas"
    mine = [budget for selector, budget in budgets if selector["matchLabels"].items() <= labels.items()]
    if [budget.get("maxUnavailable") for budget in mine] != [1]:
        yield "no disruption budget of its own lets one pod go at a time"
    spread = spec["template"]["spec"].get("topologySpreadConstraints", [])
    keys = {constraint["topologyKey"] for constraint in spread}
    yield from wrong(("the spread", keys, {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}))
    for constraint in spread:
        if not constraint["labelSelector"]["matchLabels"].items() <= labels.items():
            yield f"the spread by {constraint['topologyKey']} does not count its own pods"
    rolling = spec.get("strategy", {}).get("rollingUpdate", {})
    if "serves" in labels and rolling.get("maxUnavailable") != 0:
        yield "a rollout takes one away before the next one is there"
