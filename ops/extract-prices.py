#!/usr/bin/env python3
"""Writes ops/prices.toml from LiteLLM's price table.

    pip download --no-deps litellm==VERSION && unzip litellm-VERSION-*.whl
    ops/extract-prices.py litellm/model_prices_and_context_window_backup.json VERSION DATE > ops/prices.toml

DATE is the day of the JSON (`unzip -l` shows it). The same three inputs always give the same bytes.

What is left out stays unpriced, and an unpriced model is refused under a cap. That is right for whatever
tokens alone do not price: audio at its own rate, models that search the web by themselves, models that no
batch accepts, models already retired on DATE, and names that cannot be called as they stand (`ft:…`).
"""

import decimal
import hashlib
import json
import sys

VENDORS = ("anthropic", "openai")
MODES = ("chat", "responses", "embedding")
SELF_SEARCHING = ("-search-", "deep-research")
PICOS = 10**12
# What one web search costs where the table is silent: the vendor's only published price.
ANTHROPIC_WEB_SEARCH = 10_000_000_000

HEADER = """\
# Batch prices of the models of OpenAI and Anthropic. Written by ops/extract-prices.py; do not edit by hand,
# put your own prices into an override file of the same shape.
#
# An extract of `model_prices_and_context_window_backup.json` of LiteLLM {version} ({date}),
# sha256 {sha256}.
# LiteLLM is Copyright (c) 2023 Berri AI, used under the MIT License (https://github.com/BerriAI/litellm).
#
# Unit: pico-dollars (10^-12 US dollar) per token, at the rate of the batch API. `batch` says where input and
# output come from: "listed" = the table has a batch price, "half" = half of the list price. Rates beside them
# that have no batch price of their own (caches mostly) are half of theirs. Not given: `cached_input` and
# `cache_write` cost what `input` does, `cache_write_1h` what `cache_write` does.
# `long` holds the rates for prompts of more than `above` tokens. `web_search` is per call, never discounted.
# `us_permille` multiplies the token price of answers that were computed in the US on request.
"""


def picos(dollars):
    """Rounds up: a fraction is never given away."""
    return int((dollars * PICOS).to_integral_value(decimal.ROUND_CEILING))


def batch_rate(model, key):
    """The rate of `key` in the batch API, or None where the table has no such price at all."""
    listed = model.get(key + "_batches")
    if listed is not None:
        return picos(listed)
    full = model.get(key)
    return None if full is None else picos(full / 2)


def rates(model, tier):
    """`tier` is "" or such as "_above_272k_tokens"."""
    input_rate = batch_rate(model, "input_cost_per_token" + tier)
    one_hour = batch_rate(model, "cache_creation_input_token_cost_above_1hr" + tier)
    found = {
        "input": input_rate,
        "cached_input": batch_rate(model, "cache_read_input_token_cost" + tier),
        "cache_write": batch_rate(model, "cache_creation_input_token_cost" + tier),
        "cache_write_1h": one_hour,
        "output": batch_rate(model, "output_cost_per_token" + tier),
    }
    return {name: rate for name, rate in found.items() if rate is not None}


def long_context(name, model):
    prefix, suffix = "input_cost_per_token_above_", "k_tokens"
    found = [key[len(prefix) : -len(suffix)] for key in model if key.startswith(prefix) and key.endswith(suffix)]
    if len(found) > 1:
        sys.exit(f"{name} has several long-context tiers; the table knows one")
    return [{"above": int(k) * 1000, **rates(model, f"_above_{k}k_tokens")} for k in found]


def wanted(name, model, date):
    if model.get("litellm_provider") not in VENDORS or model.get("mode") not in MODES:
        return False
    if name.startswith("ft:") or "/" in name or any(word in name for word in SELF_SEARCHING):
        return False
    if model.get("deprecation_date", "9999") < date or not model.get("input_cost_per_token"):
        return False
    if any("audio_token" in key for key in model):
        return False
    endpoints = model.get("supported_endpoints")
    return "input_cost_per_token_batches" in model or not endpoints or "/v1/batch" in endpoints


def entry(name, model):
    listed = "input_cost_per_token_batches" in model and "output_cost_per_token_batches" in model
    out = {"batch": "listed" if listed else "half", **rates(model, "")}
    if model["mode"] == "embedding":
        out["output"] = 0
    elif not out.get("output"):
        sys.exit(f"{name} has no price for its output")
    elif model.get("max_output_tokens"):
        out["max_output_tokens"] = int(model["max_output_tokens"])
    for tier in long_context(name, model):
        out["long"] = tier
    if model["litellm_provider"] == "anthropic":
        searches = model.get("search_context_cost_per_query") or {}
        listed_search = max(searches.values(), default=None)
        out["web_search"] = picos(listed_search) if listed_search is not None else ANTHROPIC_WEB_SEARCH
        us = (model.get("provider_specific_entry") or {}).get("us")
        if us is not None:
            out["us_permille"] = int(decimal.Decimal(us) * 1000)
    return out


def toml_value(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_value(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def main():
    path, version, date = sys.argv[1:]
    with open(path, "rb") as file:
        raw = file.read()
    table = json.loads(raw, parse_float=decimal.Decimal)
    print(HEADER.format(version=version, date=date, sha256=hashlib.sha256(raw).hexdigest()))
    print(f'source = "litellm {version}"\ndate = "{date}"\n\n[models]')
    for name in sorted(table):
        if wanted(name, table[name], date):
            print(f"{json.dumps(name)} = {toml_value(entry(name, table[name]))}")


if __name__ == "__main__":
    main()
