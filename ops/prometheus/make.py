#!/usr/bin/env python3
"""Writes rules.yaml as an object of the Prometheus operator into k8s/components/monitoring; `--check` only says whether
what is there is up to date. Kustomize reads no file outside of its own folder."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
OBJECT = HERE.parent.parent / "k8s/components/monitoring/rules.yaml"
HEAD = """\
# Written by ops/prometheus/make.py from ops/prometheus/rules.yaml: change that one.
# yamllint disable rule:line-length
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tidegate
spec:
"""


def main():
    rules = (HERE / "rules.yaml").read_text().splitlines()
    # Without the head, which speaks of files beside it.
    rules = rules[rules.index("groups:"):]
    text = HEAD + "".join(f"  {line}".rstrip() + "\n" for line in rules)
    if sys.argv[1:] != ["--check"]:
        OBJECT.write_text(text)
    elif not OBJECT.exists() or OBJECT.read_text() != text:
        sys.exit(f"not as make.py would write it: {OBJECT.name}")


main()
