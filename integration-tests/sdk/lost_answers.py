"""`tidegate process` against accounts whose answers to creates are lost: every item is billed once.

Each lost answer is a batch that was accepted and that nobody was told of; whoever sends it again buys it
again. The ledger of the simulated provider counts what would be billed. A k above the number of batches
is not used up, because nothing is sent again; it is there for whoever would.
"""

import rig

LINES = 6
# What the account does to the first k creates, and how many batches the six lines make.
CASES = [
    ("answer lost", {}, "lose_answers", 1),
    ("answer lost, 3 batches", {}, "lose_answers", 3),
    ("answer lost, listed late", {"hide_from_list_ms": 400}, "lose_answers", 1),
    ("accepted, then 500", {}, "error_after_accept", 1),
    ("accepted late", {"accept_delay_ms": 300}, "delayed_accepts", 1),
]
COLUMNS = ("protocol", "what happens", "k", "POSTs", "batches", "billed", "twice", "adopted")


def drive(sim, protocol, faults, batches):
    """One run; gives what the ledger and the summary say."""
    account = rig.Account(sim, **faults)
    options = ["--max-batch-requests", str(-(-LINES // batches))]
    with rig.folder() as place:
        lines = list(rig.requests(protocol, LINES))
        summary, results = rig.process(place, protocol, account.environment(protocol), lines, *options)
    assert [line["custom_id"] for line in results] == [line["custom_id"] for line in lines], results
    assert summary["items"]["succeeded"] == LINES and summary["clean"], summary
    return account.ledger(), summary


def case(rows, protocol, name, faults, switch, batches, k):
    def check(sim):
        ledger, summary = drive(sim, protocol, {**faults, switch: k}, batches)
        billed = [batch for batch in ledger["batches"] if batch["billed"]]
        twice = len(ledger["billed_twice"])
        adopted = summary["batches"]["adopted"]
        rows.append((protocol, name, k, ledger["creates"], len(billed), ledger["items_billed_total"], twice, adopted))
        assert len(billed) == batches, ledger
        assert (ledger["items_billed_total"], ledger["distinct_items"], twice) == (LINES, LINES, 0), ledger
        # Found at the provider instead of sent again: a POST for each batch and none more.
        assert ledger["creates"] == batches, ledger

    check.__name__ = f"{protocol}: {name}, k = {k}"
    return check


def table(columns, rows):
    rows = [columns, *rows]
    widths = [max(len(str(row[at])) for row in rows) for at in range(len(columns))]
    for row in rows:
        print("  " + "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip(), flush=True)


if __name__ == "__main__":
    rows = []
    checks = [
        case(rows, protocol, *parameters, k)
        for protocol in ("openai", "anthropic")
        for parameters in CASES
        for k in (1, 2, 10)
    ]
    with rig.folder() as state, rig.sim(state) as sim:
        try:
            rig.run(checks, sim)
        finally:
            table(COLUMNS, rows)
