#!/usr/bin/env python3
"""A pull worker: takes runs of the task `work` and carries each out in `carry_out`. Ctrl-C stops it."""
import json, os, socket, threading, urllib.error, urllib.request

SERVER = os.environ.get("TIDEGATE_SERVER", "http://127.0.0.1:7070")
NAME, TASKS, LEASE = f"{socket.gethostname()}-{os.getpid()}", ["work"], 60


def call(path, **body):
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("TIDEGATE_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{SERVER}/api/v1/workers/{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def carry_out(payload, write, given_up):
    """The work itself: look at `given_up.is_set()` between its steps. What it returns is the run's output."""
    write(f"got {json.dumps(payload)}\n")
    return {"echo": payload}


def beat(held, given_up, done):
    while not done.wait(LEASE / 3):
        try:
            if call("heartbeat", **held, lease_seconds=LEASE)["cancel_requested"]:
                given_up.set()
        except urllib.error.HTTPError as error:
            if error.code == 409:  # the run is somebody else's by now
                given_up.set()
        except OSError:
            pass  # the server is away; the lease holds for a while


def work(run):
    held = {"run_id": run["run_id"], "lease_token": run["lease_token"]}
    given_up, done, pieces = threading.Event(), threading.Event(), []

    def write(text):
        call("output", **held, stream="stdout", seq=len(pieces), data=text)
        pieces.append(text)

    threading.Thread(target=beat, args=(held, given_up, done), daemon=True).start()
    try:
        call("complete", **held, output=carry_out(run["payload"], write, given_up))
    except urllib.error.HTTPError as error:
        print(f"{run['run_id']}: {error}")  # not ours any more: whoever has it now ends it
    except Exception as error:
        call("fail", **held, code=type(error).__name__, reason=" ".join(str(error).split())[:1000])
    finally:
        done.set()


while True:
    for run in call("lease", tasks=TASKS, worker=NAME, max_items=1, wait_seconds=20, lease_seconds=LEASE)["data"]:
        work(run)
