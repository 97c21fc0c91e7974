"""What each part is worth: a session of queries with everything on, then with one part off at a time.

The session is what somebody does who explores two tables: eight queries, in which each part finds something to do. KV
space is small. Every variant of a round has its own first words, so that none finds what another computed; hence
answers of variants are not compared here (tests do that on the simulator, with every rule on and off).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

import spark_helium
from benchmarks.compare import environment
from benchmarks.data import Tables, sample_groups, shorten
from benchmarks.engines import CPU, GPU
from benchmarks.measure import in_turn
from benchmarks.systems.helium import changed
from benchmarks.systems.spark import spark_session
from spark_helium.functions import llm

ROWS = {CPU: 24, GPU: 256}
EVERYTHING = "everything on"
OFF = {
    "merge": ("optimizer.mergeEqualCalls", "optimizer.shareLLMSubplans", "optimizer.deduplicateInputs"),
    "prune": ("optimizer.pruneUnusedCalls",),
    "guards": ("optimizer.guardConditionalCalls",),
    "push-down": ("optimizer.pushThroughEvalLLM",),
    "filter order": ("optimizer.orderLLMFilters",),
    "schedule": ("schedule",),
    "prompt cache": ("cache",),
    "pins": ("kv.pin",),
    "field order": ("optimizer.orderFields",),
    "placement": ("optimizer.placeCallsByCost", "optimizer.placeByPrefix"),
    "all rules": ("optimizer",),
}

Views = dict[str, DataFrame]
SENTIMENTS = ["positive", "negative"]
GUIDE = (
    "You work for a web shop and read what customers write. Products are described by their makers, so take praise in "
    "a description for what it is. Reviews are cut off at times, and some have a title of another review; answer from "
    "what is there, and do not guess. Irony is rare but it exists. A complaint about the delivery is no complaint "
    "about the product. Prices are in rupees, and a low price is no fault. Customers who compare products mean the one "
    "that they review unless they say otherwise. When you are asked for a word, answer with one of the words that were "
    "named, in lower case."
)


def tables_of(tables: Tables, rows: int, seed: int) -> dict[str, pd.DataFrame]:
    """Reviews with products, products by themselves, and a few products that somebody picked."""
    reviews = sample_groups(tables["product_reviews"], "product_id", rows, 6, seed)
    reviews = reviews[["review_id", "product_id", "product_name", "about_product", "review_content", "rating"]].copy()
    for column, characters in (("product_name", 60), ("about_product", 500), ("review_content", 200)):
        reviews[column] = shorten(reviews[column], characters)
    picked = reviews[["product_id"]].drop_duplicates().head(2)
    return {"reviews": reviews, "picked": picked}


def session(system: str) -> dict[str, Callable[[Views], DataFrame]]:
    """The queries, in order."""
    ask: dict[str, Any] = {"system": system}
    about = "Product: {name}\n{about}\n\nReview: {review}\n"
    columns = {"name": "product_name", "about": "about_product", "review": "review_content"}

    def tone() -> Any:
        return llm(about + "Is the review positive or negative?", **columns, **ask, choices=SENTIMENTS, max_tokens=3)

    def first_look(v: Views) -> DataFrame:
        return v["reviews"].select("review_id", tone().alias("tone"))

    def by_tone(v: Views) -> DataFrame:
        # The same question again, as one does when exploring; and twice in the query.
        counted = v["reviews"].groupBy(tone().alias("tone")).agg(F.count("*").alias("reviews"))
        return counted.unionAll(v["reviews"].where(tone() == "negative").agg(F.lit("unhappy"), F.count("*")))

    def unread(v: Views) -> DataFrame:
        # A library function made more columns than this query reads.
        gist = llm(about + "Sum the review up.", **columns, **ask, max_tokens=8)
        advice = llm(about + "What should the shop do?", **columns, **ask, max_tokens=8)
        return v["reviews"].withColumn("gist", gist).withColumn("advice", advice).select("review_id", "advice")

    def by_case(v: Views) -> DataFrame:
        praise = llm("Review: {0}\nWhat is praised?", "review_content", **ask, max_tokens=6)
        blame = llm("Review: {0}\nWhat is blamed?", "review_content", **ask, max_tokens=6)
        return v["reviews"].select("review_id", F.when(F.col("rating") >= 4.2, praise).otherwise(blame).alias("note"))

    def top(v: Views) -> DataFrame:
        reason = llm(about + "Why is the customer not happy?", **columns, **ask, max_tokens=6)
        return (
            v["reviews"].select("review_id", "rating", reason.alias("reason")).orderBy("rating", "review_id").limit(6)
        )

    def two_filters(v: Views) -> DataFrame:
        long = llm(about + "Is the product for children?", **columns, **ask, choices=["yes", "no"], max_tokens=2)
        short = llm("Review: {0}\nIs it angry?", "review_content", **ask, choices=["yes", "no"], max_tokens=2)
        return v["reviews"].where((long == "yes") & (short == "yes")).select("review_id")

    def with_fields(v: Views) -> DataFrame:
        fields = ["review_id", "review_content", "product_name", "about_product"]
        kind = llm("Which kind of product is reviewed? {fields}", fields=fields, **ask, max_tokens=4)
        return v["reviews"].select("review_id", kind.alias("kind"))

    def joined(v: Views) -> DataFrame:
        lasting = llm(about + "Does it last?", **columns, **ask, choices=["yes", "no"], max_tokens=2)
        asked = v["reviews"].withColumn("lasting", lasting)
        return asked.join(v["picked"], "product_id").select("review_id", "lasting")

    return {
        "first look": first_look,
        "asked again, and twice": by_tone,
        "unread column": unread,
        "CASE": by_case,
        "ORDER BY, LIMIT": top,
        "two filters": two_filters,
        "fields": with_fields,
        "join with a few": joined,
    }


def run(options: argparse.Namespace) -> None:
    """Run the suite; writes ``OUT/ablation/ablation.json``."""
    from benchmarks.command import engine_settings

    engine = engine_settings(options, options.kv if options.kv in ("small", "ample") else "small", 1024)
    rows = options.rows or ROWS[options.scale]
    tables = Tables(options.data)
    wanted = [name.strip() for name in options.only.split(",") if name.strip()]
    variants = [EVERYTHING, *(name for name in OFF if name in wanted or not wanted)]
    record: dict[str, Any] = {"suite": "ablation", "rows": rows, "engine": asdict(engine), "environment": environment()}
    record |= {"variants": variants, "rounds": []}
    path = Path(options.out) / "ablation" / "ablation.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * options.minutes if options.minutes else math.inf
    with spark_session(engine, **{"spark.helium.cache.enabled": "true"}) as spark:
        _session(spark, tables_of(tables, 8, 900), "warm up", {})
        for round_ in range(options.rounds):
            frames = tables_of(tables, rows, round_)
            record["data"] = dict(tables.sources)
            result: dict[str, Any] = {}
            record["rounds"].append(result)
            for variant in in_turn(variants, round_):
                if time.monotonic() > ends:
                    print(f"the {options.minutes:g} minutes are over", file=sys.stderr)
                    return
                settings = {f"spark.helium.{part}.enabled": "false" for part in OFF.get(variant, ())}
                tag = f"Run {round_}.{[EVERYTHING, *OFF].index(variant):02}"
                result[variant] = _session(spark, frames, tag, settings)
                total = sum(query["seconds"] for query in result[variant].values())
                print(f"ablation, round {round_ + 1}: {variant}: {total:.1f} s", file=sys.stderr, flush=True)
                path.write_text(json.dumps(record, indent=1) + "\n")


def _session(spark: Any, frames: dict[str, pd.DataFrame], tag: str, settings: dict[str, str]) -> dict[str, Any]:
    partitions = spark.sparkContext.defaultParallelism
    views = {name: spark.createDataFrame(frame).repartition(partitions).cache() for name, frame in frames.items()}
    for view in views.values():
        view.count()
    said = {}
    with changed(spark, settings):
        for name, query in session(f"{tag}. {GUIDE}").items():
            with spark_helium.measure(spark) as usage:
                began = time.perf_counter()
                query(views).collect()
                seconds = time.perf_counter() - began
            said[name] = {
                "seconds": round(seconds, 3), "calls": usage.calls_sent, "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_prompt_tokens, "output_tokens": usage.output_tokens,
            }  # fmt: skip
    for view in views.values():
        view.unpersist()
    return said
