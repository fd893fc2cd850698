"""Objects have the form of their kind, and what they refer to is there."""

import json

import jsonschema
import kubernetes_validate
import yaml

from forms import FORMS
from render import RENDERED, title, workloads
from shared import ROOT

# The oldest Kubernetes that knows everything that is used here (the sleep before a stop), and the newest that the
# package has schemas of.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
# Secrets are not in the repository: whoever applies an overlay makes them, as k8s/README.md says.
SECRETS = {"tidegate-keys", "tidegate-database"}


def forms():
    seen = set()
    for rendered in RENDERED:
        for thing in rendered.objects:
            text = json.dumps(thing, sort_keys=True)
            if text not in seen:
                seen.add(text)
                for why in form(thing):
                    yield f"{rendered.name}: {title(thing)}: {why}"


def form(thing):
    own = FORMS.get((thing["apiVersion"], thing["kind"]))
    if own:
        validator = jsonschema.Draft202012Validator(own)
        yield from (f"{error.json_path}: {error.message}" for error in validator.iter_errors(thing))
        behavior = thing["spec"].get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior")
        if behavior:
            reference = {"kind": "Deployment", "name": "any"}
            yield from form({
                "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "any"},
                "spec": {"maxReplicas": 1, "scaleTargetRef": reference, "behavior": behavior},
            })
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            yield f"neither Kubernetes {version} nor forms.py knows {thing['apiVersion']} {thing['kind']}"
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"


def copies():
    """Rules and boards are those of ops/, wherever they are."""
    rules = yaml.safe_load((ROOT / "ops/prometheus/rules.yaml").read_text())
    boards = {path.name: json.loads(path.read_text()) for path in (ROOT / "ops/grafana").glob("*.json")}
    for rendered in RENDERED:
        named = {(thing["kind"], thing["metadata"]["name"]): thing for thing in rendered.objects}
        watched = "monitoring" in rendered.components
        found = named.get(("PrometheusRule", "tidegate"), {}).get("spec")
        if found != (rules if watched else None):
            yield f"{rendered.name}: its rules are not those of ops/prometheus"
        found = named.get(("ConfigMap", "tidegate-boards"), {}).get("data", {})
        if {name: json.loads(text) for name, text in found.items()} != (boards if watched else {}):
            yield f"{rendered.name}: its boards are not those of ops/grafana"


def references():
    for rendered in RENDERED:
        for why in dangling(rendered):
            yield f"{rendered.name}: {why}"
    readme = (ROOT / "k8s/README.md").read_text()
    for secret in SECRETS:
        if secret not in readme:
            yield f"k8s/README.md does not say what is in the Secret {secret}"


def dangling(rendered):
    names = {(thing["kind"], thing["metadata"]["name"]) for thing in rendered.objects}
    namespaces = {thing["metadata"].get("namespace") for thing in rendered.objects if thing["kind"] != "Namespace"}
    if namespaces != {"tidegate"}:
        yield f"objects are in the namespaces {namespaces}"
    for thing in rendered.objects:
        for label in ["app.kubernetes.io/name", "app.kubernetes.io/part-of", "app.kubernetes.io/managed-by"]:
            if label not in thing["metadata"].get("labels", {}):
                yield f"{title(thing)}: it has no label {label}"
        yield from (f"{title(thing)}: {why}" for why in missed(rendered, thing))
    for thing, template in workloads(rendered):
        claims = {claim["metadata"]["name"] for claim in thing["spec"].get("volumeClaimTemplates", [])}
        volumes = template["spec"].get("volumes", [])
        mounts = {mount["name"] for container in template["spec"]["containers"] for mount in container["volumeMounts"]}
        for name in mounts - {volume["name"] for volume in volumes} - claims:
            yield f"{title(thing)}: it mounts {name}, which is no volume"
        for volume in volumes:
            wanted = [("ConfigMap", volume.get("configMap", {}).get("name"))]
            # The volume of sqlite-key is made by the StatefulSet of another overlay.
            if rendered.overlay != "sqlite-key":
                wanted += [("PersistentVolumeClaim", volume.get("persistentVolumeClaim", {}).get("claimName"))]
            for kind, name in wanted:
                if name and (kind, name) not in names:
                    yield f"{title(thing)}: there is no {kind} {name}"
            secret = volume.get("secret", {}).get("secretName")
            if secret and secret not in SECRETS:
                yield f"{title(thing)}: the Secret {secret} is not one that manifests.py knows"
        account = template["spec"].get("serviceAccountName")
        if ("ServiceAccount", account) not in names:
            yield f"{title(thing)}: there is no ServiceAccount {account}"
        if not selects(thing["spec"].get("selector"), template) and thing["kind"] != "Job":
            yield f"{title(thing)}: it does not select its own pods"


def missed(rendered, thing):
    """Selectors and targets that find nothing, and ports that nobody has."""
    spec, kind = thing.get("spec", {}), thing["kind"]
    templates = [template for _, template in workloads(rendered)]
    if kind == "Service":
        found = [template for template in templates if selects({"matchLabels": spec["selector"]}, template)]
        ports = [port["targetPort"] for port in spec["ports"]]
    elif kind in {"PodDisruptionBudget", "PodMonitor"}:
        found = [template for template in templates if selects(spec["selector"], template)]
        ports = [endpoint["port"] for endpoint in spec.get("podMetricsEndpoints", [])]
    elif kind == "NetworkPolicy":
        found = [template for template in templates if selects(spec["podSelector"], template)]
        ports = [port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]]
    elif kind in {"HorizontalPodAutoscaler", "ScaledObject"}:
        yield from scaled(rendered, thing)
        return
    else:
        return
    # Policies are written for every overlay at once.
    if not found and not (kind == "NetworkPolicy" and rendered.overlay != "postgres-many"):
        yield "it selects no pod"
    known = {port["name"] for template in found for port in template["spec"]["containers"][0].get("ports", [])}
    for port in ports if found else []:
        if port not in known and not (kind == "NetworkPolicy" and rendered.overlay == "sqlite-key"):
            yield f"no pod that it selects has a port {port}"


def scaled(rendered, thing):
    target = thing["spec"]["scaleTargetRef"]
    deployments = [one for one in rendered.objects if one["kind"] == "Deployment"]
    found = [one for one in deployments if one["metadata"]["name"] == target["name"]]
    if not found:
        yield f"there is no Deployment {target['name']} to scale"
    elif "replicas" in found[0]["spec"]:
        yield f"Deployment/{target['name']} says how many replicas it has: every apply would undo the scaling"
    scalers = {"HorizontalPodAutoscaler", "ScaledObject"}
    others = [one for one in rendered.objects if one["kind"] in scalers and one is not thing]
    if any(other["spec"]["scaleTargetRef"]["name"] == target["name"] for other in others):
        yield f"{target['name']} is scaled twice"
    spec = thing["spec"]
    least, most = (spec.get(f"{bound}Replicas", spec.get(f"{bound}ReplicaCount")) for bound in ["min", "max"])
    if not (least and most and 2 <= least < most):
        yield f"it scales between {least} and {most}, which is not between 2 and more"


def selects(selector, template):
    labels = template["metadata"].get("labels", {})
    selector = selector or {}
    in_set = all(
        {"In": labels.get(rule["key"]) in rule.get("values", [])}[rule["operator"]]
        for rule in selector.get("matchExpressions", [])
    )
    return in_set and all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
