"""The official OpenAI client against the simulated provider: files, batches, paging and typed errors."""

import asyncio
import io
import json
import tempfile
from pathlib import Path

import openai

import rig
from rig import Account, raises, until

ENDED = ("completed", "failed", "expired", "cancelled")


def client(account, **options):
    # No retries: each answer is looked at by itself.
    return openai.OpenAI(**{"api_key": account.key, "base_url": account.url + "/v1", "max_retries": 0, **options})


def lines(count, tag="line"):
    return rig.jsonl(rig.requests("openai", count, tag))


def upload(api, count=2, tag="line"):
    return api.files.create(file=("in.jsonl", lines(count, tag)), purpose="batch")


def create(api, file, **options):
    given = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **options}
    return api.batches.create(**given)


def ended(api, batch):
    def look():
        now = api.batches.retrieve(batch.id)
        return now if now.status in ENDED else None

    return until(f"{batch.id} to end", look)


def read(api, file_id):
    return [json.loads(line) for line in api.files.content(file_id).text.splitlines()] if file_id else []


def files_come_back_as_they_were_sent(sim):
    api, content = client(Account(sim)), lines(3)
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as on_disk:
        on_disk.write(content)
        on_disk.flush()
        path = Path(on_disk.name)
        for name, given in (("a.jsonl", ("a.jsonl", content)), (path.name, path), (None, io.BytesIO(content))):
            file = api.files.create(file=given, purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
            assert (file.object, file.purpose, file.bytes) == ("file", "batch", len(content)), file
            assert file.expires_at == file.created_at + 3600, file
            assert name is None or file.filename == name, file
            assert api.files.retrieve(file.id) == file
            assert api.files.content(file.id).content == content
            assert api.files.delete(file.id).deleted
            raises(openai.NotFoundError, lambda: api.files.retrieve(file.id))
            raises(openai.NotFoundError, lambda: api.files.content(file.id))
    assert list(api.files.list()) == []


def the_file_list_is_paged(sim):
    api = client(Account(sim))
    made = [upload(api, tag=f"f{number}").id for number in range(25)]
    api.files.create(file=("other.txt", b"x"), purpose="user_data")
    assert [file.id for file in api.files.list(limit=10, purpose="batch", order="asc")] == made
    assert [file.id for file in api.files.list(limit=10, purpose="batch")] == made[::-1]
    assert len(list(api.files.list(limit=7))) == 26


def every_line_of_a_batch_comes_back_once(sim):
    account = Account(sim, item_error_rate=0.3)
    api = client(account)
    batch = create(api, upload(api, 200), metadata={"origin": "check"})
    assert batch.status == "validating" and batch.request_counts.total == 0, batch
    batch = ended(api, batch)
    assert batch.status == "completed" and batch.metadata == {"origin": "check"}, batch
    good, bad = read(api, batch.output_file_id), read(api, batch.error_file_id)
    assert good and bad, "with these odds both files have lines"
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (200, len(good), len(bad)), counts
    assert sorted(line["custom_id"] for line in good + bad) == sorted(f"line-{number}" for number in range(200))
    for line in good:
        answer = openai.types.chat.ChatCompletion.model_validate(line["response"]["body"])
        assert line["custom_id"] in answer.choices[0].message.content, "the answer belongs to another line"
    assert all(line["error"] or line["response"]["status_code"] >= 400 for line in bad)
    assert api.files.retrieve(batch.output_file_id).purpose == "batch_output"
    ledger = account.ledger()
    assert (ledger["creates"], ledger["billed_items"], ledger["billed_twice"]) == (1, len(good), []), ledger


def every_endpoint_is_taken(sim):
    api = client(Account(sim))
    file = upload(api)
    names = ["responses", "chat/completions", "embeddings", "completions", "moderations"]
    for name in names + ["images/generations", "images/edits", "videos"]:
        assert create(api, file, endpoint=f"/v1/{name}").endpoint == f"/v1/{name}"


def metadata_has_sixteen_pairs_at_most(sim):
    account = Account(sim)
    api = client(account)
    file = upload(api)
    pairs = {f"k{number}": "v" for number in range(16)}
    assert create(api, file, metadata=pairs).metadata == pairs
    error = raises(openai.BadRequestError, lambda: create(api, file, metadata=pairs | {"one": "more"}))
    assert error.param == "metadata", error.body
    assert len(account.ledger()["batches"]) == 1


def the_batch_list_is_paged_past_a_hundred(sim):
    api = client(Account(sim, latency_ms=0))
    file = upload(api)
    made = [create(api, file).id for _ in range(105)][::-1]
    assert [batch.id for batch in api.batches.list(limit=100)] == made
    # The default page is smaller.
    assert [batch.id for batch in api.batches.list()] == made
    assert [batch.id for batch in api.batches.list(after=made[99])] == made[100:]


def a_batch_is_cancelled(sim):
    # Long enough to be cancelled under way; a cancel takes a share of it.
    account = Account(sim, latency_ms=3_000)
    api = client(account)
    batch = create(api, upload(api, 50))
    assert api.batches.cancel(batch.id).status == "cancelling"
    batch = ended(api, batch)
    assert batch.status == "cancelled" and batch.cancelled_at, batch
    assert account.ledger()["billed_items"] == len(read(api, batch.output_file_id))


def errors_have_their_class_and_request_id(sim):
    account = Account(sim)
    api = client(account)
    file = upload(api)
    done = ended(api, create(api, file))
    cases = [
        (400, openai.BadRequestError, {}, lambda: create(api, file, completion_window="1h")),
        (400, openai.BadRequestError, {}, lambda: create(api, file, input_file_id="file-none")),
        (401, openai.AuthenticationError, {"reject_keys": True}, lambda: upload(api)),
        (404, openai.NotFoundError, {}, lambda: api.batches.retrieve("batch_none")),
        (404, openai.NotFoundError, {}, lambda: api.files.content("file-none")),
        (409, openai.ConflictError, {}, lambda: api.batches.cancel(done.id)),
        (429, openai.RateLimitError, {"rate_limits": 1}, lambda: create(api, file)),
        (429, openai.RateLimitError, {"spend_limit": True}, lambda: create(api, file)),
        (500, openai.InternalServerError, {"error_after_accept": 1}, lambda: create(api, file)),
        (503, openai.InternalServerError, {"overloads": 1}, lambda: create(api, file)),
    ]
    for status, kind, faults, call in cases:
        account.faults(**faults)
        error = raises(kind, call)
        assert error.status_code == status and error.request_id, (status, error)
        # All four keys are required by the published schema; the client keeps what is under `error`.
        assert set(error.body) == {"message", "type", "param", "code"}, error.body
    account.faults(lose_answers=1)
    raises(openai.APIConnectionError, lambda: create(api, file))


def a_refusal_is_retried_by_the_client(sim):
    # The client waits as `retry-after` says, and nothing was bought meanwhile.
    account = Account(sim, rate_limits=1)
    api = client(account, max_retries=2)
    create(api, upload(api))
    ledger = account.ledger()
    assert (ledger["creates"], len(ledger["batches"])) == (2, 1), ledger


def answers_name_their_request(sim):
    api = client(Account(sim))
    raw = api.files.with_raw_response.create(file=("in.jsonl", lines(1)), purpose="batch")
    assert raw.headers["x-request-id"] and raw.parse().id


def the_asynchronous_client_works_too(sim):
    account = Account(sim)

    async def drive():
        async with openai.AsyncOpenAI(api_key=account.key, base_url=account.url + "/v1", max_retries=0) as api:
            file = await api.files.create(file=("in.jsonl", lines(5)), purpose="batch")
            given = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
            batch = await api.batches.create(input_file_id=file.id, **given)
            async with asyncio.timeout(rig.PATIENCE):
                while batch.status not in ENDED:
                    await asyncio.sleep(0.02)
                    batch = await api.batches.retrieve(batch.id)
            text = (await api.files.content(batch.output_file_id)).text
            assert len(text.splitlines()) == 5, text
            assert [each.id async for each in api.batches.list(limit=1)] == [batch.id]

    asyncio.run(drive())


if __name__ == "__main__":
    with rig.folder() as state, rig.sim(state) as sim:
        rig.run(
            [
                files_come_back_as_they_were_sent,
                the_file_list_is_paged,
                every_line_of_a_batch_comes_back_once,
                every_endpoint_is_taken,
                metadata_has_sixteen_pairs_at_most,
                the_batch_list_is_paged_past_a_hundred,
                a_batch_is_cancelled,
                errors_have_their_class_and_request_id,
                a_refusal_is_retried_by_the_client,
                answers_name_their_request,
                the_asynchronous_client_works_too,
            ],
            sim,
        )
