"""Queries over tables: the types of the LLM-SQL paper (arXiv 2403.05821) and of SemBench's movie scenario (arXiv
2511.01716).

Each is DataFrame code in which ``ask`` is ``llm`` or a pandas UDF, and a job. The rows of a job are those that a user
of a system without joins and filters would send: the relational part that does not read an answer is done before,
untimed, and what reads answers is done in pandas after. A row of a table is sampled with its group, so that values
repeat about as they do in the whole table; each round has other rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks.data import Tables, sample_groups, sample_rows, shorten
from benchmarks.engines import CPU, GPU
from benchmarks.jobs import Job, Step, When
from benchmarks.systems.base import Ask, Case, Views

ROWS = {CPU: 96, GPU: 1024}
SYSTEMS = ("helium", "udf", "operator-wise", "floor", "daft-http", "ray-http", "lotus")

YES_NO = ["yes", "no"]
SENTIMENTS = ["positive", "negative"]


def _tagged(round_: int, name: str, system: str) -> str:
    # The first words differ from round to round and case to case, so that none begins in the KV cache of another.
    return f"Run {round_}, {name}. {system}"


def _products(tables: Tables, rows: int, round_: int) -> pd.DataFrame:
    found = sample_groups(tables["product_reviews"], "product_id", rows, 6, seed=round_)
    found = found[["review_id", "product_name", "about_product", "review_content", "rating"]].copy()
    found["product_name"] = shorten(found["product_name"], 80)
    found["about_product"] = shorten(found["about_product"], 600)
    found["review_content"] = shorten(found["review_content"], 240)
    return found


def _clothing(tables: Tables, rows: int, round_: int) -> pd.DataFrame:
    found = sample_groups(tables["clothing_reviews"], "clothing_id", rows, 6, seed=round_)
    found = found[["review_id", "department_name", "class_name", "review_text", "rating"]].copy()
    found["review_text"] = shorten(found["review_text"], 300)
    for column in ("department_name", "class_name"):
        found[column] = found[column].fillna("other").astype(str)
    return found


def _posts(tables: Tables, rows: int, round_: int) -> pd.DataFrame:
    found = sample_groups(tables["posts_comments"], "post_id", rows, 4, seed=round_)
    found = found[["comment_id", "question_title", "post_body", "comment_text"]].copy()
    found["post_body"] = shorten(found["post_body"], 700)
    found["comment_text"] = shorten(found["comment_text"], 240)
    return found


def filter_(tables: Tables, rows: int, round_: int) -> Case:
    """``WHERE ai_filter AND rating <= 3``, the LLM condition written first."""
    system = _tagged(round_, "filter", "You read clothing reviews for a shop and answer with one word.")
    template = (
        "Review of a garment from the department {department}:\n{review}\nDoes the customer complain about the fit?"
    )
    table = _clothing(tables, 3 * rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        complains = ask(
            template, department="department_name", review="review_text", system=system, max_tokens=2, choices=YES_NO
        )
        return views["clothing"].where((complains == "yes") & (F.col("rating") <= 3)).select("review_id", "rating")

    kept = table[table["rating"] <= 3]
    given = kept.rename(columns={"department_name": "department", "review_text": "review"})
    job = Job((Step("complains", template, system, max_tokens=2, choices=tuple(YES_NO)),), ("complains",))

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        return answered[answered["complains"] == "yes"][["review_id", "rating"]]

    return Case("filter", "LLM filter beside a plain one", query, {"clothing": table}, job, given, finish)


def projection(tables: Tables, rows: int, round_: int) -> Case:
    """A text per row, over a long product description that rows share: reviews joined with products, then shuffled."""
    system = _tagged(round_, "projection", "You help a web shop and answer in a few words.")
    template = "Product: {name}\n{about}\n\nReview: {review}\nWhat does the review say about this product, in short?"
    table = _products(tables, rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        gist = ask(
            template, name="product_name", about="about_product", review="review_content", system=system, max_tokens=8
        )
        return views["products"].select("review_id", gist.alias("gist"))

    given = table.rename(columns={"product_name": "name", "about_product": "about", "review_content": "review"})
    job = Job((Step("gist", template, system, max_tokens=8),), ("gist",))
    return Case(
        "projection", "projection over joined products", query, {"products": table}, job, given,
        lambda answered: answered[["review_id", "gist"]],
    )  # fmt: skip


def classify_aggregate(tables: Tables, rows: int, round_: int) -> Case:
    """``GROUP BY`` an answer: how many reviews of which sentiment, and their mean rating."""
    system = _tagged(round_, "classify", "You classify reviews and answer with one word.")
    template = "A customer wrote about a {kind}: {review}\nIs the review positive or negative?"
    table = _clothing(tables, rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        sentiment = ask(
            template, kind="class_name", review="review_text", system=system, max_tokens=3, choices=SENTIMENTS
        )
        grouped = views["clothing"].groupBy(sentiment.alias("sentiment"))
        return grouped.agg(F.count("*").alias("reviews"), F.sum("rating").alias("stars"))

    given = table.rename(columns={"class_name": "kind", "review_text": "review"})
    job = Job((Step("sentiment", template, system, max_tokens=3, choices=tuple(SENTIMENTS)),), ("sentiment",))

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        grouped = answered.groupby("sentiment", as_index=False)
        return grouped.agg(reviews=("review_id", "count"), stars=("rating", "sum"))[["sentiment", "reviews", "stars"]]

    return Case("classify_aggregate", "classify, then aggregate", query, {"clothing": table}, job, given, finish)


def multi_call(tables: Tables, rows: int, round_: int) -> Case:
    """Two calls over posts joined with comments: a filter, and an answer for what passes it."""
    system = _tagged(round_, "multi call", "You moderate a forum about quantum computing and answer briefly.")
    head = "Post: {title}\n{post}\n\nComment: {comment}\n"
    useful_template, gist_template = head + "Is the comment useful?", head + "What does the comment add, in short?"
    table = _posts(tables, rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        columns = {"title": "question_title", "post": "post_body", "comment": "comment_text"}
        useful = ask(useful_template, **columns, system=system, max_tokens=2, choices=YES_NO)
        gist = ask(gist_template, **columns, system=system, max_tokens=8)
        return views["posts"].where(useful == "yes").select("comment_id", gist.alias("gist"))

    given = table.rename(columns={"question_title": "title", "post_body": "post", "comment_text": "comment"})
    steps = (
        Step("useful", useful_template, system, max_tokens=2, choices=tuple(YES_NO)),
        Step("gist", gist_template, system, max_tokens=8, when=When("useful", "yes")),
    )

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        return answered[answered["useful"] == "yes"][["comment_id", "gist"]]

    job = Job(steps, ("useful", "gist"))
    return Case("multi_call", "filter, then projection", query, {"posts": table}, job, given, finish)


def rag_squad(tables: Tables, rows: int, round_: int) -> Case:
    """A RAG table: questions over retrieved passages, which rows share."""
    system = _tagged(round_, "passages", "You answer questions from the given passages with a few words.")
    template = "Passages:\n1. {first}\n2. {second}\n\nQuestion: {question}\nAnswer:"
    found = sample_groups(tables["squad"], "context1", rows, 5, seed=round_)
    table = found[["id", "question", "context1", "context2"]].copy()
    for column in ("context1", "context2"):
        table[column] = shorten(table[column], 600)

    def query(views: Views, ask: Ask) -> DataFrame:
        answer = ask(template, first="context1", second="context2", question="question", system=system, max_tokens=8)
        return views["squad"].select("id", answer.alias("answer"))

    given = table.rename(columns={"context1": "first", "context2": "second"})
    return Case(
        "rag_squad", "RAG: questions over passages", query, {"squad": table},
        Job((Step("answer", template, system, max_tokens=8),), ("answer",)), given,
        lambda answered: answered[["id", "answer"]],
    )  # fmt: skip


def rag_fever(tables: Tables, rows: int, round_: int) -> Case:
    """A RAG table: claims and the sentences that should support or refute them."""
    system = _tagged(round_, "claims", "You check claims against evidence and answer with one word.")
    template = "Claim: {claim}\nEvidence:\n{evidence1}\n{evidence2}\n{evidence3}\nDoes the evidence support the claim?"
    found = sample_groups(tables["fever"], "claim", rows, 2, seed=round_)
    table = found[["id", "claim", "evidence1", "evidence2", "evidence3"]].copy()

    def query(views: Views, ask: Ask) -> DataFrame:
        columns = {name: name for name in ("claim", "evidence1", "evidence2", "evidence3")}
        supported = ask(template, **columns, system=system, max_tokens=2, choices=YES_NO)
        return views["fever"].select("id", supported.alias("supported"))

    return Case(
        "rag_fever", "RAG: claims against evidence", query, {"fever": table},
        Job((Step("supported", template, system, max_tokens=2, choices=tuple(YES_NO)),), ("supported",)), table,
        lambda answered: answered[["id", "supported"]],
    )  # fmt: skip


def semantic_join(tables: Tables, rows: int, round_: int) -> Case:
    """``JOIN ON`` a question: pairs of reviews of one film that agree. The first review of a pair is shared."""
    system = _tagged(round_, "join", "You compare two reviews of a film and answer with one word.")
    template = "First review: {left}\nSecond review: {right}\nDo both like the film or both dislike it?"
    found = sample_groups(tables["movies_sembench"], "movie_id", max(6, rows // 3), 5, seed=round_)
    table = found[["movie_id", "review_id", "review_text"]].copy()

    def query(views: Views, ask: Ask) -> DataFrame:
        left = views["movies"].select("movie_id", F.col("review_id").alias("a"), F.col("review_text").alias("text_a"))
        right = views["movies"].select("movie_id", F.col("review_id").alias("b"), F.col("review_text").alias("text_b"))
        agree = ask(template, left="text_a", right="text_b", system=system, max_tokens=2, choices=YES_NO)
        pairs = left.join(right, "movie_id").where(F.col("a") < F.col("b"))
        return pairs.where(agree == "yes").select("a", "b")

    left = table.rename(columns={"review_id": "a", "review_text": "left"})
    right = table.rename(columns={"review_id": "b", "review_text": "right"})
    pairs = left.merge(right, on="movie_id")
    pairs = pairs[pairs["a"] < pairs["b"]].sort_values(["movie_id", "a", "b"])
    job = Job((Step("agree", template, system, max_tokens=2, choices=tuple(YES_NO)),), ("agree",))

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        return answered[answered["agree"] == "yes"][["a", "b"]]

    return Case("semantic_join", "semantic join", query, {"movies": table}, job, pairs, finish)


def limit(tables: Tables, rows: int, round_: int) -> Case:
    """``ORDER BY rating LIMIT n`` above a call: the worst reviews, each with its reason."""
    system = _tagged(round_, "limit", "You read clothing reviews for a shop and answer in a few words.")
    template = "Review of a {kind}: {review}\nWhy is the customer not happy?"
    table = _clothing(tables, rows, round_)
    wanted = min(10, max(2, rows // 4))

    def query(views: Views, ask: Ask) -> DataFrame:
        reason = ask(template, kind="class_name", review="review_text", system=system, max_tokens=8)
        reasons = views["clothing"].select("review_id", "rating", reason.alias("reason"))
        return reasons.orderBy("rating", "review_id").limit(wanted)

    given = table.sort_values(["rating", "review_id"]).head(wanted)
    given = given.rename(columns={"class_name": "kind", "review_text": "review"})
    return Case(
        "limit", "ORDER BY and LIMIT", query, {"clothing": table},
        Job((Step("reason", template, system, max_tokens=8),), ("reason",)), given,
        lambda answered: answered[["review_id", "rating", "reason"]],
    )  # fmt: skip


def case(tables: Tables, rows: int, round_: int) -> Case:
    """``CASE``: one question for good reviews, another for bad ones, none in between."""
    system = _tagged(round_, "case", "You read reviews for a web shop and answer in a few words.")
    praise_template = "Review: {review}\nWhat does the customer praise?"
    blame_template = "Review: {review}\nWhat should the shop do about it?"
    table = _clothing(tables, rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        praise = ask(praise_template, review="review_text", system=system, max_tokens=8)
        blame = ask(blame_template, review="review_text", system=system, max_tokens=8)
        note = F.when(F.col("rating") >= 5, praise).when(F.col("rating") <= 2, blame)
        return views["clothing"].select("review_id", note.alias("note"))

    # Without CASE a user writes the question into a column, and sends the rows that have one.
    given = table.rename(columns={"review_text": "review"})
    given["question"] = None
    given.loc[given["rating"] >= 5, "question"] = praise_template.partition("\n")[2]
    given.loc[given["rating"] <= 2, "question"] = blame_template.partition("\n")[2]
    given = given[given["question"].notna()]
    job = Job((Step("note", "Review: {review}\n{question}", system, max_tokens=8),), ("note",))

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        return table[["review_id"]].merge(answered[["review_id", "note"]], how="left", on="review_id")

    return Case("case", "CASE", query, {"clothing": table}, job, given, finish)


def self_union(tables: Tables, rows: int, round_: int) -> Case:
    """The same classification in two branches of a ``UNION``."""
    system = _tagged(round_, "union", "You classify reviews of products and answer with one word.")
    template = "Product: {name}\nReview: {review}\nIs the review positive or negative?"
    table = _products(tables, rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        sentiment = ask(
            template, name="product_name", review="review_content", system=system, max_tokens=3, choices=SENTIMENTS
        )
        labelled = views["products"].withColumn("sentiment", sentiment)
        surprising = labelled.where((F.col("rating") < 4.1) & (F.col("sentiment") == "positive"))
        unhappy = labelled.where(F.col("sentiment") == "negative")
        return surprising.select("review_id", "sentiment").unionAll(unhappy.select("review_id", "sentiment"))

    given = table.rename(columns={"product_name": "name", "review_content": "review"})
    job = Job((Step("sentiment", template, system, max_tokens=3, choices=tuple(SENTIMENTS)),), ("sentiment",))

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        surprising = answered[(answered["rating"] < 4.1) & (answered["sentiment"] == "positive")]
        unhappy = answered[answered["sentiment"] == "negative"]
        return pd.concat([surprising, unhappy])[["review_id", "sentiment"]]

    return Case("self_union", "UNION of two branches", query, {"products": table}, job, given, finish)


def nothing_shared(tables: Tables, rows: int, round_: int) -> Case:
    """The worst query for us: every prompt begins with its own text, and nothing can be left out."""
    system = _tagged(round_, "notes", "You answer in a few words.")
    template = "{review}\nWhat is this about?"
    found = sample_rows(tables["clothing_reviews"].drop_duplicates("review_text"), rows, seed=round_)
    table = found[["review_id", "review_text"]].copy()
    table["review_text"] = shorten(table["review_text"], 300)

    def query(views: Views, ask: Ask) -> DataFrame:
        about = ask(template, review="review_text", system=system, max_tokens=8)
        return views["clothing"].select("review_id", about.alias("about"))

    given = table.rename(columns={"review_text": "review"})
    return Case(
        "nothing_shared", "nothing shared, nothing pruned", query, {"clothing": table},
        Job((Step("about", template, system, max_tokens=8),), ("about",)), given,
        lambda answered: answered[["review_id", "about"]],
    )  # fmt: skip


CASES: dict[str, Callable[[Tables, int, int], Case]] = {
    "filter": filter_,
    "projection": projection,
    "classify_aggregate": classify_aggregate,
    "multi_call": multi_call,
    "rag_squad": rag_squad,
    "rag_fever": rag_fever,
    "semantic_join": semantic_join,
    "limit": limit,
    "case": case,
    "self_union": self_union,
    "nothing_shared": nothing_shared,
}
WORST = "nothing_shared"


def cases(tables: Tables, rows: int, round_: int) -> dict[str, Callable[[], Case]]:
    """What makes the cases of a round, by name."""
    return {name: partial(make, tables, rows, round_) for name, make in CASES.items()}
