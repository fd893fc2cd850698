"""The official Anthropic client against the simulated provider: batches, paging, results, both dialects."""

import asyncio

import anthropic

import rig
from rig import Account, raises, until


def client(account, **options):
    # No retries: each answer is looked at by itself.
    return anthropic.Anthropic(**{"api_key": account.key, "base_url": account.url, "max_retries": 0, **options})


def requests(count, tag="line", **params):
    made = list(rig.requests("anthropic", count, tag))
    for request in made:
        request["params"].update(params)
    return made


def ended(batches, batch):
    def look():
        now = batches.retrieve(batch.id)
        return now if now.processing_status == "ended" else None

    return until(f"{batch.id} to end", look)


def matched(results, count, tag="line"):
    """Every line exactly once, and each answer with its own line."""
    results = list(results)
    assert sorted(line.custom_id for line in results) == sorted(f"{tag}-{number}" for number in range(count))
    for line in results:
        if line.result.type == "succeeded":
            assert line.custom_id in line.result.message.content[0].text, "the answer belongs to another line"
    return [line.result.type for line in results]


def a_batch_is_followed_to_its_results(sim):
    account = Account(sim, latency_ms=1_000)
    batches = client(account).messages.batches
    batch = batches.create(requests=requests(20))
    assert (batch.processing_status, batch.request_counts.processing) == ("in_progress", 20), batch
    # Neither can be had before the end.
    raises(anthropic.BadRequestError, lambda: batches.delete(batch.id))
    raises(anthropic.AnthropicError, lambda: batches.results(batch.id))
    batch = ended(batches, batch)
    assert batch.request_counts.succeeded == 20 and batch.ended_at and batch.results_url, batch
    assert set(matched(batches.results(batch.id), 20)) == {"succeeded"}
    assert batches.delete(batch.id).type == "message_batch_deleted"
    raises(anthropic.NotFoundError, lambda: batches.retrieve(batch.id))
    ledger = account.ledger()
    assert (ledger["creates"], ledger["billed_items"], ledger["billed_twice"]) == (1, 20, []), ledger


def two_thousand_results_are_read(sim):
    faults = {"reorder": True, "item_error_rate": 0.1, "item_expire_rate": 0.1}
    account = Account(sim, **faults)
    batches = client(account).messages.batches
    batch = ended(batches, batches.create(requests=requests(2_000)))
    kinds = matched(batches.results(batch.id), 2_000)
    counts = batch.request_counts
    assert {"succeeded", "errored", "expired"} == set(kinds)
    assert (counts.succeeded, counts.errored) == (kinds.count("succeeded"), kinds.count("errored")), counts
    assert counts.expired == kinds.count("expired") and counts.processing == 0, counts
    # Only what succeeded is paid for.
    assert account.ledger()["billed_items"] == counts.succeeded


def the_list_is_paged_both_ways(sim):
    batches = client(Account(sim)).messages.batches
    made = [batches.create(requests=requests(1)).id for _ in range(45)][::-1]
    assert [batch.id for batch in batches.list()] == made
    assert [batch.id for batch in batches.list(limit=10)] == made
    assert [batch.id for batch in batches.list(limit=10, after_id=made[12])] == made[13:]
    page = batches.list(limit=10, before_id=made[-1])
    assert [batch.id for batch in page.data] == made[-11:-1] and page.has_more
    # Going back, each page is newest first and the pages are not.
    assert sorted(batch.id for batch in page) == sorted(made[:-1])
    assert len(list(batches.list(limit=10, before_id=made[-1]))) == len(made) - 1


def a_batch_is_cancelled(sim):
    # Long enough to be cancelled under way; a cancel takes a share of it.
    account = Account(sim, latency_ms=3_000)
    batches = client(account).messages.batches
    batch = batches.create(requests=requests(50))
    batch = batches.cancel(batch.id)
    assert batch.processing_status == "canceling" and batch.cancel_initiated_at, batch
    batch = ended(batches, batch)
    kinds = matched(batches.results(batch.id), 50)
    assert kinds.count("canceled") == batch.request_counts.canceled > 0, batch
    assert account.ledger()["billed_items"] == kinds.count("succeeded")


def the_beta_client_works_too(sim):
    batches = client(Account(sim)).beta.messages.batches
    batch = ended(batches, batches.create(requests=requests(3)))
    matched(batches.results(batch.id), 3)
    assert [each.id for each in batches.list()] == [batch.id]
    assert batches.delete(batch.id).id == batch.id


def both_key_headers_and_both_versions_are_served(sim):
    # Older releases of the client send the key as X-Api-Key, and the first version.
    account = Account(sim)
    old, new = {"X-Api-Key": account.key, "Authorization": anthropic.Omit()}, {"Authorization": f"Bearer {account.key}"}
    for auth in (old, new):
        for version, kind in (("2023-06-01", "succeeded"), ("2026-10-21", "errored")):
            api = client(account, default_headers={**auth, "anthropic-version": version})
            # The later version has no temperature, and says so only in the results.
            batch = ended(api.messages.batches, api.messages.batches.create(requests=requests(2, temperature=0.5)))
            assert matched(api.messages.batches.results(batch.id), 2) == [kind, kind], (version, auth.keys())
    # All four were the same account.
    assert len(account.ledger()["batches"]) == 4
    unknown = client(account, default_headers={"anthropic-version": "1999-01-01"})
    raises(anthropic.BadRequestError, unknown.messages.batches.list)


def a_bad_custom_id_is_refused(sim):
    account = Account(sim)
    batches = client(account).messages.batches
    for bad in ("x" * 65, "", "has space", "dot.ted"):
        given = requests(2)
        given[1]["custom_id"] = bad
        error = raises(anthropic.BadRequestError, lambda: batches.create(requests=given))
        assert "requests.1.custom_id" in error.message and error.request_id, error
    raises(anthropic.BadRequestError, lambda: batches.create(requests=requests(1) * 2))
    raises(anthropic.BadRequestError, lambda: batches.create(requests=[]))
    assert account.ledger()["batches"] == []
    given = requests(1)
    given[0]["custom_id"] = "aZ09_-" * 10 + "1234"
    assert batches.create(requests=given).id


def errors_have_their_class_and_request_id(sim):
    account = Account(sim)
    batches = client(account).messages.batches
    done = ended(batches, batches.create(requests=requests(1)))

    def create():
        return batches.create(requests=requests(2))

    cases = [
        (400, "invalid_request_error", anthropic.BadRequestError, {}, lambda: batches.cancel(done.id)),
        (401, "authentication_error", anthropic.AuthenticationError, {"reject_keys": True}, create),
        (404, "not_found_error", anthropic.NotFoundError, {}, lambda: batches.retrieve("msgbatch_none")),
        (429, "rate_limit_error", anthropic.RateLimitError, {"rate_limits": 1}, create),
        (429, "rate_limit_error", anthropic.EnforcedSpendLimitReachedError, {"spend_limit": True}, create),
        (500, "api_error", anthropic.InternalServerError, {"error_after_accept": 1}, create),
        (529, "overloaded_error", anthropic.OverloadedError, {"overloads": 1}, create),
    ]
    for status, name, kind, faults, call in cases:
        account.faults(**faults)
        error = raises(kind, call)
        assert error.status_code == status and error.request_id, (status, error)
        assert (error.body["type"], error.body["error"]["type"]) == ("error", name), error.body
        assert error.body["request_id"] == error.request_id, error.body
    account.faults(lose_answers=1)
    raises(anthropic.APIConnectionError, create)


def the_asynchronous_client_works_too(sim):
    account = Account(sim)

    async def drive():
        async with anthropic.AsyncAnthropic(api_key=account.key, base_url=account.url, max_retries=0) as api:
            batch = await api.messages.batches.create(requests=requests(5))
            async with asyncio.timeout(rig.PATIENCE):
                while batch.processing_status != "ended":
                    await asyncio.sleep(0.02)
                    batch = await api.messages.batches.retrieve(batch.id)
            matched([line async for line in await api.messages.batches.results(batch.id)], 5)
            assert [each.id async for each in api.messages.batches.list(limit=1)] == [batch.id]

    asyncio.run(drive())


if __name__ == "__main__":
    with rig.folder() as state, rig.sim(state) as sim:
        rig.run(
            [
                a_batch_is_followed_to_its_results,
                two_thousand_results_are_read,
                the_list_is_paged_both_ways,
                a_batch_is_cancelled,
                the_beta_client_works_too,
                both_key_headers_and_both_versions_are_served,
                a_bad_custom_id_is_refused,
                errors_have_their_class_and_request_id,
                the_asynchronous_client_works_too,
            ],
            sim,
        )
