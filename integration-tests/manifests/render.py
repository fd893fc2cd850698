"""Renders k8s/: every overlay alone, with each component that fits, and with all of them."""

import os
import re
import shutil
from collections import namedtuple

import yaml

from shared import ROOT, SCRATCH, run

# Components that an overlay is made of already, so that they are rendered with it.
BUILT_IN = {"labels", "pod", "server"}
# What else may be laid over each overlay.
FITS = {
    "process-job": ["monitoring", "networkpolicy"],
    "sqlite-single": ["monitoring", "networkpolicy", "chaos"],
    "sqlite-key": ["networkpolicy"],
    "postgres-many": ["monitoring", "networkpolicy", "chaos", "hpa"],
}

Rendered = namedtuple("Rendered", "name overlay components objects file")
# Filled by `everything`, the first check.
RENDERED = []


def combinations():
    """(overlay, components, whether these are as many as fit)"""
    for overlay, fitting in FITS.items():
        yield overlay, [], False
        for component in fitting:
            yield overlay, [component], False
        yield overlay, fitting, True


def full():
    """The renderings that have everything."""
    return [rendered for rendered in RENDERED if rendered.name.endswith("(full)")]


def configuration(rendered):
    """The text of the configuration that the rendered pods mount."""
    maps = [thing["data"] for thing in rendered.objects if thing["kind"] == "ConfigMap"]
    return next(files["tidegate.toml"] for files in maps if "tidegate.toml" in files)


def everything():
    there = lambda folder: {path.name for path in (ROOT / "k8s" / folder).iterdir()}
    for overlay in there("overlays") ^ set(FITS):
        yield f"overlay {overlay}: it is not in FITS of render.py, or not in k8s/overlays"
    for component in there("components") ^ (BUILT_IN | {name for fitting in FITS.values() for name in fitting}):
        yield f"component {component}: it is not in FITS of render.py, or not in k8s/components"
    for overlay, components, is_full in combinations():
        name = " + ".join([overlay, *components]) + (" (full)" if is_full else "")
        laid = {
            "resources": [f"path/to/k8s/overlays/{overlay}"],
            "components": [f"path/to/k8s/components/{component}" for component in components],
        }
        yield from rendered_as(name, overlay, components, yaml.safe_dump(laid))
    # And as the README tells people to do it.
    example = re.search(r"```yaml\n(.*?)```", (ROOT / "k8s/README.md").read_text(), re.DOTALL)[1]
    overlay, *components = re.findall(r"path/to/k8s/\w+/([\w-]+)", example)
    yield from rendered_as("k8s/README.md", overlay, components, example.replace("sha256:…", "sha256:" + "0" * 64))


def rendered_as(name, overlay, components, text):
    folder = SCRATCH / "kustomize" / str(len(list(SCRATCH.glob("kustomize/*"))))
    folder.mkdir(parents=True)
    k8s = os.path.relpath(ROOT / "k8s", folder.resolve())
    (folder / "kustomization.yaml").write_text(text.replace("path/to/k8s", k8s))
    shutil.copy(ROOT / "k8s/base/tidegate.toml", folder)
    code, out, err = run("kubectl", "kustomize", folder)
    if code != 0 or err.strip():
        yield f"{name}: {err.strip()}"
        return
    file = folder / "rendered"
    file.write_text(out)
    RENDERED.append(Rendered(name, overlay, components, list(yaml.safe_load_all(out)), file))


def workloads(rendered):
    """(object, pod template's spec, the container) for everything that makes pods."""
    for thing in rendered.objects:
        template = thing.get("spec", {}).get("template")
        if thing["kind"] in {"Deployment", "StatefulSet", "Job"} and template:
            yield thing, template


def title(thing):
    return f"{thing['kind']}/{thing['metadata']['name']}"
