#!/usr/bin/env python3
"""A pull worker: takes runs of the task `work`, one at a time, and carries each out in `carry_out`."""
import itertools, json, os, threading, urllib.error, urllib.request

SERVER = os.environ.get("TIDEGATE_SERVER", "http://127.0.0.1:7070")
KEY, NAME, LEASE = os.environ.get("TIDEGATE_API_KEY"), f"{os.uname().nodename}-{os.getpid()}", 60


def carry_out(payload, write, given_up):
    """The work itself: stop early if `given_up()`. What it returns is kept as the run's output."""
    write(f"got {json.dumps(payload)}\n")
    return {"echo": payload}


def call(path, **body):
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {KEY}"} if KEY else {})
    request = urllib.request.Request(f"{SERVER}/api/v1/workers/{path}", json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request, timeout=60))


def beat(held, stop, done):
    while not done.wait(LEASE / 3):
        try:
            stop.set() if call("heartbeat", **held, lease_seconds=LEASE)["cancel_requested"] else None
        except OSError as error:  # away for a while, or (404, 409) the run is not ours any more
            stop.set() if getattr(error, "code", 0) in (404, 409) else None


def work(run):
    held, pieces = {"run_id": run["run_id"], "lease_token": run["lease_token"]}, itertools.count()
    stop, done = threading.Event(), threading.Event()
    threading.Thread(target=beat, args=(held, stop, done), daemon=True).start()
    write = lambda text: call("output", **held, seq=next(pieces), data=text)
    try:
        call("complete", **held, output=carry_out(run["payload"], write, stop.is_set))
    except urllib.error.HTTPError as error:
        print(f"{run['run_id']}: {error}")  # not ours any more; whoever has it now ends it
    except Exception as error:
        call("fail", **held, code=type(error).__name__, reason=" ".join(str(error).split())[:1000])
    done.set()


while True:
    for run in call("lease", tasks=["work"], worker=NAME, wait_seconds=20, lease_seconds=LEASE)["data"]:
        work(run)
