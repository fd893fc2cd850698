"""What a lost answer costs other clients: batches made for one logical batch, as a Markdown table.

The rig is that of `lost_answers.py`: a simulated account that accepts the first k creates and closes the
connection without an answer. Every client runs with its defaults. Its user wants one batch of six
requests, and calls `create` again when that raises, with the same input, until it returns: as anyone does
who gets a connection error. `tidegate process` is run once.

    compare.py                            all clients; TIDEGATE_LITELLM_PYTHON is the Python that has litellm
    compare.py client NAME URL KEY        one client; prints its version and how often it was called
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import rig

LOST = (1, 2, 10)
LINES = 6
# The lost answers come to an end, so every client does; this is for one that does not send anything.
MOST_CALLS = 20


def until_it_returns(create, errors):
    for call in range(1, MOST_CALLS + 1):
        try:
            create()
            return call
        except errors as error:
            print(f"call {call}: {type(error).__name__}", file=sys.stderr)
    sys.exit(f"{MOST_CALLS} calls, and none returned")


def openai_python(url, key):
    import openai

    api = openai.OpenAI(api_key=key, base_url=url + "/v1")
    file = api.files.create(file=("in.jsonl", rig.jsonl(rig.requests("openai", LINES))), purpose="batch")
    given = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return version("openai"), until_it_returns(lambda: api.batches.create(**given), openai.APIConnectionError)


def anthropic_python(url, key):
    import anthropic

    api = anthropic.Anthropic(api_key=key, base_url=url)
    given = list(rig.requests("anthropic", LINES))
    calls = until_it_returns(lambda: api.messages.batches.create(requests=given), anthropic.APIConnectionError)
    return version("anthropic"), calls


def litellm_sdk(url, key):
    import litellm
    import openai

    litellm.suppress_debug_info = True
    to = {"custom_llm_provider": "openai", "api_base": url + "/v1", "api_key": key}
    content = ("in.jsonl", rig.jsonl(rig.requests("openai", LINES)))
    file = litellm.create_file(file=content, purpose="batch", **to)
    given = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **to}
    # It lets the error of the client below it through.
    calls = until_it_returns(lambda: litellm.create_batch(**given), openai.APIConnectionError)
    return version("litellm"), calls


CLIENTS = {"openai-python": openai_python, "anthropic-python": anthropic_python, "LiteLLM SDK": litellm_sdk}


def foreign(name, account):
    """Runs one client in its own Python; gives its version and how often it was called."""
    python = os.environ.get("TIDEGATE_LITELLM_PYTHON", sys.executable) if name == "LiteLLM SDK" else sys.executable
    argv = [python, __file__, "client", name, account.url, account.key]
    # Not the price list from the net.
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=5 * rig.PATIENCE)
    if done.returncode != 0:
        sys.exit(f"{name} ended with {done.returncode}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def tidegate(protocol, account):
    with rig.folder() as place:
        lines = rig.requests(protocol, LINES)
        rig.process(place, protocol, account.environment(protocol), lines)
    words = subprocess.run([rig.binary(), "--version"], capture_output=True, text=True, check=True).stdout.split()
    return words[-1], 1


def main():
    runs = [(name, lambda account, name=name: foreign(name, account)) for name in CLIENTS]
    for protocol in ("openai", "anthropic"):
        runs.append((f"tidegate process ({protocol})", lambda account, protocol=protocol: tidegate(protocol, account)))
    rows = []
    with rig.folder() as state, rig.sim(state) as sim:
        for name, run in runs:
            cells, versions = [], set()
            for lost in LOST:
                account = rig.Account(sim, lose_answers=lost)
                release, calls = run(account)
                ledger = account.ledger()
                versions.add(release)
                made, times = len(ledger["batches"]), ledger["items_billed_total"] / LINES
                print(f"{name} {release}: {lost} lost, called {calls} times, {ledger['creates']} POSTs, {made} batches, "
                      f"each request billed {times:g} times", file=sys.stderr)
                cells.append(f"{made} ({calls})")
            rows.append(f"| {name} | {', '.join(sorted(versions))} | {' | '.join(cells)} |")
    print("Batches made and billed for one logical batch (in brackets: how often the user called, again on each error)\n")
    print("| client | version | " + " | ".join(f"{lost} lost" for lost in LOST) + " |")
    print("|---|---|" + "---|" * len(LOST))
    print("\n".join(rows))


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case ["client", name, url, key]:
            print(json.dumps(CLIENTS[name](url, key)))
        case _:
            sys.exit(__doc__)
