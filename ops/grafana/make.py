#!/usr/bin/env python3
"""Writes the three Grafana boards of this folder from the tables below, and all of them as a ConfigMap into
k8s/components/monitoring; `--check` only says whether they are up to date.

Every query names metrics of `tidegate metrics catalogue` only; a test holds that. Gauges of the whole cluster are told by
one node: `max`, never `sum`."""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
CONFIG_MAP = HERE.parent.parent / "k8s/components/monitoring/boards.yaml"
WIDTH, HEIGHT, IN_A_ROW = 8, 7, 3

OVERVIEW = [
    ("Runs", [
        ("Accepted and finished", "ops", {
            "accepted": "sum(rate(tidegate_runs_accepted_total[5m]))",
            "{{state}}": "sum by (state) (rate(tidegate_runs_finished_total[5m]))",
        }),
        ("Refused", "ops", {"{{reason}}": "sum by (reason) (rate(tidegate_runs_rejected_total[5m]))"}),
        ("Attempts by outcome", "ops", {"{{outcome}}": "sum by (outcome) (rate(tidegate_run_attempts_total[5m]))"}),
        ("Waiting, by queue", "short", {"{{queue}}": "max by (queue) (tidegate_queue_depth)"}),
        ("Oldest waiting, by queue", "s", {"{{queue}}": "max by (queue) (tidegate_queue_oldest_age_seconds)"}),
        ("Wait before the start, p99", "s", {
            "{{queue}}": "histogram_quantile(0.99, sum by (queue, le) (rate(tidegate_run_queue_wait_seconds_bucket[5m])))",
        }),
        ("What attempts take, p99", "s", {
            "{{task}}": "histogram_quantile(0.99, sum by (task, le) (rate(tidegate_run_duration_seconds_bucket[5m])))",
        }),
        ("Slots", "short", {
            "there": "sum(tidegate_worker_slots)",
            "busy": "sum(tidegate_worker_slots_busy)",
            "with pull workers": "max(tidegate_pull_leases)",
        }),
        ("Nodes", "short", {"{{state}}": "max by (state) (tidegate_cluster_nodes)"}),
    ]),
    ("Buffer", [
        ("Decisions of the gate", "ops", {"{{decision}}": "sum by (decision) (rate(tidegate_buffer_decisions_total[5m]))"}),
        ("Entries", "short", {"{{state}}": "max by (state) (tidegate_buffer_entries)"}),
        ("Oldest, and stale ones", "s", {
            "oldest": "max(tidegate_buffer_oldest_age_seconds)",
            "stale entries": "max(tidegate_buffer_stale_entries)",
        }),
    ]),
    ("API", [
        ("Requests", "reqps", {"{{code_class}}": "sum by (code_class) (rate(tidegate_http_requests_total[5m]))"}),
        ("Time to the answer, p99", "s", {
            "{{route}}": "histogram_quantile(0.99, sum by (route, le) (rate(tidegate_http_request_duration_seconds_bucket[5m])))",
        }),
        ("Limited and not let in", "ops", {
            "{{policy}}": "sum by (policy) (rate(tidegate_http_rate_limited_total[5m]))",
            "key {{reason}}": "sum by (reason) (rate(tidegate_auth_failures_total[5m]))",
        }),
    ]),
]

INTERNALS = [
    ("Actors", [
        ("Deaths that nobody wanted", "short", {
            "{{actor}}": "sum by (actor) (increase(tidegate_actor_restarts_total{injected=\"false\"}[5m]))",
        }),
        ("Messages that wait", "short", {"{{actor}}": "max by (actor) (tidegate_actor_mailbox_depth)"}),
        ("Kills on purpose", "short", {"{{mode}}": "sum by (mode) (increase(tidegate_chaos_kills_total[5m]))"}),
        ("From death to life, p99", "s", {
            "{{actor}}": "histogram_quantile(0.99, sum by (actor, le) (rate(tidegate_actor_restart_seconds_bucket[5m])))",
        }),
    ]),
    ("Sweeps and leases", [
        ("Since each sweep went through", "s", {
            "{{kind}}": "time() - max by (kind) (tidegate_sweep_last_success_timestamp_seconds)",
        }),
        ("What sweeps found", "short", {"{{kind}}": "sum by (kind) (increase(tidegate_sweep_reclaimed_total[5m]))"}),
        ("What a pass takes, p99", "s", {
            "{{kind}}": "histogram_quantile(0.99, sum by (kind, le) (rate(tidegate_sweep_duration_seconds_bucket[5m])))",
        }),
        ("Leases lost", "short", {"{{instance}}": "sum by (instance) (increase(tidegate_leases_lost_total[5m]))"}),
        ("Roles held", "short", {"{{role}}": "sum by (role) (tidegate_leader)"}),
        ("Sessions closed", "short", {"{{outcome}}": "sum by (outcome) (increase(tidegate_sessions_closed_total[1h]))"}),
    ]),
    ("Process and store", [
        ("CPU", "percentunit", {"{{instance}}": "rate(process_cpu_seconds_total{job=\"tidegate\"}[5m])"}),
        ("Memory", "bytes", {"{{instance}}": "process_resident_memory_bytes{job=\"tidegate\"}"}),
        ("Connections to the store", "short", {"{{state}}": "sum by (state) (tidegate_db_pool_connections)"}),
        ("Files and sockets", "short", {"{{instance}}": "process_open_fds{job=\"tidegate\"}"}),
        ("Streams of events", "short", {"{{stream}}": "sum by (stream) (tidegate_sse_connections)"}),
        ("Names told as other", "short", {
            "{{metric}}": "sum by (metric) (increase(tidegate_metric_labels_dropped_total[1h]))",
        }),
    ]),
]

SPEND = [
    ("Money", [
        ("Dollars an hour", "currencyUSD", {"spent": "sum(increase(tidegate_llm_spend_nanodollars_total[1h])) / 1e9"}),
        ("Today, of the cap", "currencyUSD", {
            "spent and reserved": "max(tidegate_llm_spend_day_nanodollars) / 1e9",
            "cap": "max(tidegate_llm_spend_day_limit_nanodollars) / 1e9",
        }),
        ("Results without a price", "short", {
            "{{model}}": "sum by (model) (increase(tidegate_llm_unpriced_requests_total[1h]))",
        }),
        ("Tokens", "ops", {
            "{{model}} {{direction}}": "sum by (model, direction) (rate(tidegate_llm_tokens_total[5m]))",
        }),
    ]),
    ("Batches", [
        ("In flight", "short", {"{{state}}": "max by (state) (tidegate_llm_batches)"}),
        ("Of unknown fate", "short", {"unreconciled": "max(tidegate_llm_batches_unreconciled)"}),
        ("Creates", "short", {"{{outcome}}": "sum by (outcome) (increase(tidegate_llm_batch_creates_total[1h]))"}),
        ("Turnaround, p90", "s", {
            "{{provider}}":
                "histogram_quantile(0.9, sum by (provider, le) (rate(tidegate_llm_batch_turnaround_seconds_bucket[6h])))",
        }),
        ("Until the next one expires", "s", {
            "{{provider}}": "min by (provider) (tidegate_llm_batch_next_expiry_timestamp_seconds > 0) - time()",
        }),
        ("Jobs", "short", {"{{state}}": "max by (state) (tidegate_jobs)"}),
        ("Duplicates and lines set aside", "short", {
            "duplicates": "sum(increase(tidegate_llm_duplicate_batches_total[1h]))",
            "set aside": "sum(increase(tidegate_llm_results_quarantined_total[1h]))",
        }),
        ("Live calls", "short", {"{{outcome}}": "sum by (outcome) (increase(tidegate_llm_live_calls_total[1h]))"}),
    ]),
]

BOARDS = {
    "overview": ("Tidegate: overview", OVERVIEW),
    "internals": ("Tidegate: internals", INTERNALS),
    "llm-spend": ("Tidegate: LLM spend", SPEND),
}
SOURCE = {"type": "prometheus", "uid": "${source}"}


def panel(number, place, title, unit, queries):
    targets = [
        {"datasource": SOURCE, "refId": chr(ord("A") + index), "expr": expr, "legendFormat": legend}
        for index, (legend, expr) in enumerate(queries.items())
    ]
    return {
        "id": number, "type": "timeseries", "title": title, "datasource": SOURCE, "gridPos": place, "targets": targets,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }


def board(name, title, rows):
    panels, y = [], 0
    for row, shown in rows:
        panels.append({
            "id": len(panels) + 1, "type": "row", "title": row, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
        })
        y += 1
        for index, (panel_title, unit, queries) in enumerate(shown):
            place = {"x": index % IN_A_ROW * WIDTH, "y": y + index // IN_A_ROW * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(panel(len(panels) + 1, place, panel_title, unit, queries))
        y += -(-len(shown) // IN_A_ROW) * HEIGHT
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": f"tidegate-{name}", "title": title, "tags": ["tidegate"], "schemaVersion": 39, "editable": True,
        "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "timezone": "browser",
        "templating": {"list": [source]}, "panels": panels,
    }


# By the label Grafana's sidecar finds it.
CONFIG_MAP_HEAD = """\
# Written by ops/grafana/make.py, as the boards of ops/grafana are.
# yamllint disable rule:line-length
apiVersion: v1
kind: ConfigMap
metadata:
  name: tidegate-boards
  labels:
    grafana_dashboard: "1"
data:
"""


def config_map(boards):
    pages = (f"  {name}.json: |-\n    {json.dumps(page, separators=(',', ':'))}\n" for name, page in boards.items())
    return CONFIG_MAP_HEAD + "".join(pages)


def main():
    boards = {name: board(name, title, rows) for name, (title, rows) in BOARDS.items()}
    files = {HERE / f"{name}.json": json.dumps(page, indent=1) + "\n" for name, page in boards.items()}
    stale = []
    for path, text in (files | {CONFIG_MAP: config_map(boards)}).items():
        if sys.argv[1:] == ["--check"]:
            if not path.exists() or path.read_text() != text:
                stale.append(path.name)
        else:
            path.write_text(text)
    if stale:
        sys.exit(f"not as make.py would write them: {', '.join(stale)}")


main()
