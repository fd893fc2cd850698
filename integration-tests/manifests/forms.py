"""The kinds that Kubernetes itself does not know, as JSON schemas: the fields that we use, and no others. No package
brings these definitions, so what stands here was written after the documentation of the operator."""

SELECTOR = {
    "type": "object",
    "required": ["matchLabels"],
    "additionalProperties": False,
    "properties": {"matchLabels": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}}},
}
TIME = {"type": "string", "pattern": "^[1-9][0-9]*(ms|s|m|h)$"}


def closed(required, **properties):
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


def kind(spec):
    named = closed(["name", "namespace"], name={"type": "string"}, namespace={"type": "string"}, labels=True)
    return closed(["apiVersion", "kind", "metadata", "spec"], apiVersion=True, kind=True, metadata=named, spec=spec)


POD_MONITOR = closed(
    ["selector", "podMetricsEndpoints"],
    selector=SELECTOR,
    jobLabel={"type": "string"},
    podMetricsEndpoints={
        "type": "array",
        "minItems": 1,
        "items": closed(["port", "path"], port={"type": "string"}, path={"type": "string"}, interval=TIME),
    },
)

EITHER = [{"required": ["record"]}, {"required": ["alert", "labels", "annotations"]}]
TEXTS = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}}
RULE = closed(
    ["expr"], expr={"type": "string"}, record={"type": "string"}, alert={"type": "string"}, labels=TEXTS,
    annotations=TEXTS, **{"for": TIME}
) | {"oneOf": EITHER}
GROUP = closed(["name", "rules"], name={"type": "string"}, rules={"type": "array", "minItems": 1, "items": RULE})
PROMETHEUS_RULE = closed(["groups"], groups={"type": "array", "minItems": 1, "items": GROUP})

FORMS = {
    ("monitoring.coreos.com/v1", "PodMonitor"): kind(POD_MONITOR),
    ("monitoring.coreos.com/v1", "PrometheusRule"): kind(PROMETHEUS_RULE),
}
