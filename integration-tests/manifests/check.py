"""Everything that is checked about k8s/ and ops/ without a cluster or a container engine; run.sh starts it."""

import sys
import time

import binary
import host
import manifests
import pods
import render

CHECKS = [
    ("yaml is well formed", host.yaml),
    ("every overlay and component is rendered", render.everything),
    ("objects have the form of their kind", manifests.forms),
    ("rules and boards are those of ops/", manifests.copies),
    ("what refers to something finds it", manifests.references),
    ("pods are restricted", pods.restricted),
    ("servers are probed, and stop in time", pods.servers),
    ("many nodes stay many", pods.fleet),
    ("checkov has nothing to add", host.checkov),
    ("the Dockerfile is what pods expect", host.dockerfile),
    ("compose.yaml has the form, and refers to what is there", host.compose),
    ("Prometheus scrapes the nodes of compose.yaml", host.prometheus),
    ("the systemd unit is valid and closed", host.unit),
    ("the binary takes arguments, variables and settings", binary.accepts),
    ("a pod's server starts, answers its probes and stops", binary.serves),
]


def main():
    failed = 0
    for name, check in CHECKS:
        began = time.monotonic()
        findings = sorted(set(check()))
        print(f"{'FAILED' if findings else 'ok':6} {name} ({time.monotonic() - began:.1f} s)")
        for finding in findings:
            print(f"       {finding}")
        sys.stdout.flush()
        failed += bool(findings)
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
