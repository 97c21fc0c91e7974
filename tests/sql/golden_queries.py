"""Named queries whose optimized plans stand in ``golden/``: each shows one thing that a rule does, or declines to do.

The tables are views over VALUES, so that the planner counts their rows and values: it finds 300 reviews of products 0
to 59, products 0 to 29, and four orders of each product 0 to 59.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from textwrap import dedent

from pyspark.sql import DataFrame, SparkSession

from . import workflows

Value = int | str | None | list[str]

ANALYSTS = [f"doc{i}" for i in range(4)] + [f"news{i}" for i in range(5)] + [f"social{i}" for i in range(3)]
STOCKS = ["stock", "profile", "prices", "statistics", *ANALYSTS]
TABLES: dict[str, tuple[list[str], list[list[Value]]]] = {
    "reviews": (
        ["id", "product", "stars", "title", "body"],
        [[i, i % 60, i % 5 + 1, f"title {i}" if i % 3 else None, f"review {i}"] for i in range(300)],
    ),
    "products": (
        ["id", "name", "category", "tags"],
        [[i, f"product {i}", f"category {i % 5}", ["new", "cheap"][: i % 3]] for i in range(30)],
    ),
    "orders": (["product", "day"], [[i % 60, i] for i in range(240)]),
    "questions": (["id", "question"], [[1, "why is the sky blue"], [2, "is it art"], [3, None]]),
    "stocks": (STOCKS, [[f"{column} {i}" for column in STOCKS] for i in range(2)]),
}

# Spark would compute projections, filters and limits over VALUES while it optimizes, and nothing of them would be left
# to look at. Its own tests switch the rule off, too.
SETTINGS = {"spark.sql.optimizer.excludedRules": "org.apache.spark.sql.catalyst.optimizer.ConvertToLocalRelation"}


def create_tables(spark: SparkSession) -> None:
    def literal(value: Value) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, list):
            return f"CAST(array({', '.join(map(literal, value))}) AS ARRAY<STRING>)"
        return repr(value)

    for name, (columns, rows) in TABLES.items():
        values = ", ".join(f"({', '.join(map(literal, row))})" for row in rows)
        spark.sql(f"SELECT * FROM VALUES {values} AS t({', '.join(columns)})").createOrReplaceTempView(name)


def drop_tables(spark: SparkSession) -> None:
    for name in TABLES:
        spark.catalog.dropTempView(name)


@dataclass(frozen=True)
class Golden:
    """One query: what it shows, its text, or a function of a DataFrame and the table that it is given."""

    shows: str
    query: str | tuple[Callable[[DataFrame], DataFrame], str]
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        if isinstance(self.query, str):
            return dedent(self.query).strip()
        function, table = self.query
        module = function.__module__.rsplit(".", 1)[-1]
        return f"{module}.{function.__name__}(spark.table({table!r}))  # tests/sql/{module}.py"

    def dataframe(self, spark: SparkSession) -> DataFrame:
        if isinstance(self.query, str):
            return spark.sql(self.query)
        function, table = self.query
        return function(spark.table(table))


MERGING = {
    "merge-equal-calls": Golden(
        "Calls that are equal however their template was written become one.",
        """
        SELECT id, llm('Sum up {0}', body) AS a, upper(llm('Sum up {}', body)) AS b, llm('Sum up {x}', x => body) AS c
        FROM reviews
        """,
    ),
    "merge-where-and-select": Golden(
        "The answer that a filter reads is the one that is selected.",
        """
        SELECT id, llm('Angry? {0}', body, choices => array('yes', 'no')) AS angry
        FROM reviews
        WHERE llm('Angry? {0}', body, choices => array('yes', 'no')) = 'yes'
        """,
    ),
    "merge-chains": Golden(
        "Equal chains of calls merge link by link.",
        """
        SELECT llm('Translate {0}', llm('Sum up {0}', body)) AS a, llm('Shorten {0}', llm('Sum up {0}', body)) AS b,
               llm('Translate {0}', llm('Sum up {0}', body)) AS c
        FROM reviews
        """,
    ),
    "merge-cascades": Golden(
        "Equal calls with equal cascades become one; the call without a cascade is another one.",
        """
        SELECT id, ai_filter(body, 'it is sad') AS plain,
               ai_filter(body, 'it is sad', proxy_model => 'org/small', target_precision => 0.9,
                         target_recall => 0.9) AS a,
               ai_filter(body, 'it is sad', proxyModel => 'org/small', targetPrecision => 9 / 10,
                         targetRecall => 0.90, sample_rows => 224) AS b
        FROM reviews
        """,
    ),
    "merge-declined-temperature": Golden(
        "Each call with a temperature is a draw of its own; with a seed it is not.",
        """
        SELECT llm('Joke on {0}', name, temperature => 1) AS a, llm('Joke on {0}', name, temperature => 1) AS b,
               llm('Joke on {0}', name, temperature => 1, seed => 7) AS c,
               llm('Joke on {0}', name, temperature => 1, seed => 7) AS d
        FROM products
        """,
    ),
}

PRUNING = {
    "prune-unread-call": Golden(
        "A call whose answer nobody reads is not made; the node goes with its last call.",
        "SELECT id FROM (SELECT id, llm('Sum up {0}', body) AS summary FROM reviews) WHERE id > 10",
    ),
    "prune-keeps-what-a-call-reads": Golden(
        "A call stays that another call reads, and one goes that only a dropped call read.",
        """
        SELECT short FROM (
          SELECT llm('Shorten {0}', llm('Sum up {0}', body)) AS short,
                 llm('Translate {0}', llm('Explain {0}', body)) AS translated
          FROM reviews)
        """,
    ),
    "prune-below-aggregate": Golden(
        "Counting rows needs no answers.",
        "SELECT stars, count(*) FROM (SELECT stars, llm('Sum up {0}', body) AS s FROM reviews) GROUP BY stars",
    ),
}

GUARDS = {
    "guard-case": Golden(
        "A call runs for the rows of its CASE branch.",
        """
        SELECT id, CASE WHEN stars < 2 THEN llm('Console {0}', body) WHEN stars > 4 THEN llm('Thank {0}', body)
                        ELSE title END AS reply
        FROM reviews
        """,
    ),
    "guard-if-in-aggregate": Golden(
        "A call inside an aggregate function gets a guard, too.",
        "SELECT product, max(IF(stars < 3, llm('Sum up {0}', body), NULL)) AS worst FROM reviews GROUP BY product",
    ),
    "guard-coalesce": Golden(
        "A call behind another value of COALESCE runs where that value is NULL.",
        "SELECT id, coalesce(title, llm('Find a title for {0}', body)) AS title FROM reviews",
    ),
    "guard-or": Golden(
        "A call in OR runs where the other side is not true.",
        "SELECT id FROM reviews WHERE stars = 1 OR llm('Angry? {0}', body, choices => array('yes', 'no')) = 'yes'",
    ),
    "guard-and": Golden(
        "A call in AND runs where the other side is not false.",
        """
        SELECT id, stars < 3 AND llm('Angry? {0}', body, choices => array('yes', 'no')) = 'yes' AS bad FROM reviews
        """,
    ),
    "guard-declined": Golden(
        "No guard for an answer that is read outside of the branch, nor for one whose branch another answer decides.",
        """
        SELECT CASE WHEN stars < 2 THEN a END AS x, a AS y, CASE WHEN a = 'yes' THEN b END AS z
        FROM (SELECT stars, llm('Angry? {0}', body, choices => array('yes', 'no')) AS a, llm('Why? {0}', body) AS b
              FROM reviews)
        """,
    ),
}

PUSH_DOWN = {
    "push-filter": Golden(
        "The conjunct that reads no answer filters the rows before they are asked about.",
        """
        SELECT id FROM reviews WHERE llm('Angry? {0}', body, choices => array('yes', 'no')) = 'yes' AND stars < 3
        """,
    ),
    "push-limit": Golden(
        "Ten rows are asked about, not all.",
        "SELECT id, llm('Sum up {0}', body) AS summary FROM reviews LIMIT 10",
    ),
    "push-top-k": Golden(
        "ORDER BY and LIMIT by columns: the top rows are found before they are asked about.",
        "SELECT id, llm('Sum up {0}', body) AS summary FROM reviews ORDER BY stars, id LIMIT 10",
    ),
    "push-sort": Golden(
        "A global sort runs its input twice, so it runs below the calls, also by a column that is not selected.",
        "SELECT id, llm('Sum up {0}', body) AS summary FROM reviews ORDER BY stars DESC",
    ),
    "push-offset": Golden(
        "OFFSET drops rows before they are asked about.",
        "SELECT id, llm('Sum up {0}', body) AS summary FROM reviews ORDER BY id LIMIT 10 OFFSET 20",
    ),
    "push-sample": Golden(
        "A sample is drawn before it is asked about.",
        """
        SELECT * FROM (SELECT id, llm('Sum up {0}', body) AS summary FROM reviews)
        TABLESAMPLE (10 PERCENT) REPEATABLE (1)
        """,
    ),
    "push-semi-join": Golden(
        "Rows that a semi join drops make no calls.",
        """
        SELECT r.id, summary FROM (SELECT id, product, llm('Sum up {0}', body) AS summary FROM reviews) r
        LEFT SEMI JOIN products p ON r.product = p.id AND p.category = 'category 1'
        """,
    ),
    "push-anti-join": Golden(
        "Rows that an anti join drops make no calls.",
        """
        SELECT r.id, summary FROM (SELECT id, product, llm('Sum up {0}', body) AS summary FROM reviews) r
        LEFT ANTI JOIN products p ON r.product = p.id
        """,
    ),
    "push-not-yet-in-subquery": Golden(
        "Spark turns IN into a semi join after our rules, so that the call runs for all reviews.",
        """
        SELECT id FROM reviews
        WHERE product IN (SELECT id FROM products WHERE category = 'category 1')
          AND llm('Angry? {0}', body, choices => array('yes', 'no')) = 'yes'
        """,
    ),
    "push-declined-answer-sorts": Golden(
        "What reads the answer stays above the call: the sort, and the limit above it.",
        "SELECT id FROM reviews ORDER BY llm('Grade {0}', body, regex => '[1-9]'), id LIMIT 10",
    ),
    "push-declined-temperature": Golden(
        "A draw is made for each row that the text says: filter and limit stay above it.",
        """
        SELECT id, joke FROM (SELECT id, stars, llm('Joke on {0}', body, temperature => 1) AS joke FROM reviews)
        WHERE stars < 3 LIMIT 10
        """,
    ),
}

LIMITS = {
    "pace-for-limit": Golden(
        "A limit over a filter by an answer cannot be pushed: the call asks few rows first.",
        "SELECT id, title FROM reviews WHERE ai_filter(body, 'it is rude') LIMIT 10",
    ),
    "pace-declined-cascade": Golden(
        "A cascade needs its windows of rows whole, whatever the limit wants.",
        """
        SELECT id, title FROM reviews
        WHERE ai_filter(body, 'it is rude', proxy_model => 'org/small', target_precision => 0.9, target_recall => 0.9)
        LIMIT 10
        """,
    ),
    "pace-declined-calls-above": Golden(
        "Of two nodes only the upper one: it reads the rows of the lower one ahead.",
        """
        SELECT id, llm('Why {0}?', upper(topic), choices => array('a', 'b')) AS why
        FROM (SELECT id, llm('Topic of {0}', body) AS topic FROM reviews)
        WHERE length(topic) > 3 AND llm('Why {0}?', upper(topic), choices => array('a', 'b')) = 'a' LIMIT 10
        """,
    ),
}

JOINS = {
    "join-selective": Golden(
        "Half of the reviews have a product: the call runs above the join.",
        """
        SELECT r.id, p.name, summary
        FROM (SELECT id, product, llm('Sum up {0}', body) AS summary FROM reviews) r
        JOIN products p ON r.product = p.id AND p.category = 'category 1'
        """,
    ),
    "join-filter-over-call": Golden(
        "The filter over the answer moves above the join with its call.",
        """
        SELECT r.id, p.name
        FROM (SELECT id, product FROM reviews WHERE llm('Angry? {0}', body, choices => array('yes', 'no')) = 'yes') r
        JOIN products p ON r.product = p.id AND p.category = 'category 1'
        """,
    ),
    "join-both-sides": Golden(
        "Calls of both sides run above the join that keeps few rows of each.",
        """
        SELECT r.summary, p.slogan
        FROM (SELECT product, llm('Sum up {0}', body) AS summary FROM reviews WHERE stars = 1) r
        JOIN (SELECT id, llm('Slogan for {0}', name) AS slogan FROM products WHERE id < 10) p ON r.product = p.id
        """,
    ),
    "join-declined-keeps-all": Golden(
        "Every product has orders, four of them: the call stays below the join.",
        """
        SELECT p.slogan, o.day FROM (SELECT id, llm('Slogan for {0}', name) AS slogan FROM products) p
        JOIN orders o ON p.id = o.product
        """,
    ),
    "join-declined-outer": Golden(
        "Above the outer join the call would be asked about rows without a partner.",
        """
        SELECT r.id, p.slogan FROM reviews r
        LEFT JOIN (SELECT id, llm('Slogan for {0}', category) AS slogan FROM products) p ON r.product = p.id
        """,
    ),
    "join-declined-condition-reads-answer": Golden(
        "The join needs the answer.",
        """
        SELECT r.id, p.name
        FROM (SELECT id, llm('Which category? {0}', body, choices => array('category 1', 'category 2')) AS category
              FROM reviews) r
        JOIN products p ON r.category = p.category
        """,
    ),
    "join-declined-temperature": Golden(
        "A draw stays where the text makes it.",
        """
        SELECT r.id, p.name FROM (SELECT id, product, llm('Joke on {0}', body, temperature => 1) AS joke FROM reviews) r
        JOIN products p ON r.product = p.id AND p.category = 'category 1'
        WHERE joke IS NOT NULL
        """,
    ),
    "join-left-outer-expands": Golden(
        "The join repeats each product's row: the call runs below it.",
        """
        SELECT p.id, o.day, llm('Slogan for {0}', p.name) AS slogan
        FROM products p LEFT JOIN orders o ON p.id = o.product
        """,
    ),
    "join-inner-expands": Golden(
        "Likewise for an inner join, for the rows that have a partner; a call over both sides stays above.",
        """
        SELECT o.day, llm('Slogan for {0}', p.name) AS slogan, llm('{0} on day {1}', p.name, o.day) AS story
        FROM products p JOIN orders o ON p.id = o.product
        """,
    ),
    "join-two-sided-inner": Golden(
        "A call over both sides in the condition of an inner join is a filter above the cheap part of the join.",
        """
        SELECT r.id, p.name FROM reviews r
        JOIN products p ON r.product = p.id
          AND llm('Is {0} about {1}?', r.body, p.name, choices => array('yes', 'no')) = 'yes'
        """,
    ),
    "join-two-sided-outer": Golden(
        "A call over both sides in the condition of an outer join runs for the distinct pairs of values.",
        """
        SELECT r.id, p.name FROM reviews r
        LEFT JOIN products p ON r.product = p.id
          AND llm('Is {0} about {1}?', r.body, p.name, choices => array('yes', 'no')) = 'yes'
        """,
    ),
    "explode-repeats": Golden(
        "A call over what explode repeats runs below it, where there is something to repeat.",
        """
        SELECT name, tag, llm('Slogan for {0}', name) AS slogan, llm('Is {0} {1}?', name, tag) AS fits
        FROM (SELECT name, explode(tags) AS tag FROM products)
        """,
    ),
    "explode-lateral-view-outer": Golden(
        "LATERAL VIEW OUTER keeps every row, so that the call below it needs no guard.",
        "SELECT tag, llm('Slogan for {0}', name) AS slogan FROM products LATERAL VIEW OUTER explode(tags) t AS tag",
    ),
}

FUSION = {
    "fuse-concat": Golden(
        "Text around an answer folds into the next prompt: one node.",
        """
        SELECT summary, llm('Shorten {0}', concat('<', summary, '>')) AS short
        FROM (SELECT llm('Sum up {0}', body) AS summary FROM reviews)
        """,
    ),
    "fuse-concat-ws": Golden(
        "Answers and columns that are joined with a separator fold, too.",
        """
        SELECT llm('Compare {0}', concat_ws(', ', title, a, b)) AS c
        FROM (SELECT title, llm('Pros of {0}', body) AS a, llm('Cons of {0}', body) AS b FROM reviews)
        """,
    ),
    "fuse-coalesce-format-string": Golden(
        "So do COALESCE and format_string with plain specifiers.",
        """
        SELECT llm('Translate {0}', coalesce(summary, 'nothing')) AS a,
               llm('Shorten {0}', format_string('%s: %s', title, summary)) AS b
        FROM (SELECT title, llm('Sum up {0}', title) AS summary FROM reviews)
        """,
    ),
    "fuse-filter-between": Golden(
        "The filter between two calls becomes the guard of the second, and stays above to drop the rows.",
        """
        SELECT id, llm('Why angry? {0}', body) AS why
        FROM (SELECT id, body, llm('Angry? {0}', body, choices => array('yes', 'no')) AS angry FROM reviews)
        WHERE angry = 'yes'
        """,
    ),
    "fuse-declined-function": Golden(
        "upper is not string glue: Spark computes it between two nodes.",
        """
        SELECT llm('Shorten {0}', upper(summary)) AS short
        FROM (SELECT llm('Sum up {0}', body) AS summary FROM reviews)
        """,
    ),
    "fuse-declined-limit-between": Golden(
        "The limit between two calls has to see the first answers and keep calls of the second away.",
        """
        SELECT id, llm('Reply to {0}', body) AS reply
        FROM (SELECT id, body FROM reviews ORDER BY llm('Grade {0}', body, regex => '[1-9]'), id LIMIT 10)
        """,
    ),
    "fuse-debate": Golden(
        "Three agents, two rounds and a summary are one call graph of seven calls.", (workflows.debate, "questions")
    ),
    "fuse-trading": Golden(
        "The 88 calls of the trading workflow are one call graph of the 56 that differ.", (workflows.trading, "stocks")
    ),
}

FILTERS = {
    "filters-cheapest-first": Golden(
        "The short question runs first, the long one for the rows that it lets through, the summary for what is left.",
        """
        SELECT id, llm('Sum up {0}', body) AS summary
        FROM reviews
        WHERE llm('Read with care, look for signs of anger, then say whether the author is angry: {0}', body,
                  choices => array('yes', 'no')) = 'yes'
          AND llm('Long? {0}', body, choices => array('yes', 'no')) = 'yes'
        """,
    ),
    "filters-draws-run-for-every-row": Golden(
        "Nothing is put off in a node with a draw.",
        """
        SELECT id FROM reviews
        WHERE llm('Write a long text about {0}', body) LIKE '%good%'
          AND llm('Toss a coin for {0}', id, choices => array('heads', 'tails'), temperature => 1) = 'heads'
        """,
    ),
}

SHARING = {
    "share-union-all": Golden(
        "Both branches of UNION ALL ask the same: one node, behind an exchange that is used twice.",
        """
        SELECT id, llm('Sum up {0}', body) AS summary FROM reviews
        UNION ALL
        SELECT product, llm('Sum up {0}', body) FROM reviews
        """,
    ),
    "share-cte-three-times": Golden(
        "Three references to a CTE, each with columns and filters of its own, run its calls once.",
        """
        WITH graded AS (
          SELECT id, stars, llm('Angry? {0}', body, choices => array('yes', 'no')) AS angry FROM reviews)
        SELECT count(*) AS n FROM graded WHERE angry = 'yes'
        UNION ALL SELECT count(*) FROM graded WHERE stars = 1 OR angry = 'no'
        UNION ALL SELECT max(id) FROM graded WHERE angry IS NOT NULL
        """,
    ),
    "share-self-join": Golden(
        "Both sides of a self join share their calls.",
        """
        WITH named AS (SELECT id, category, llm('Slogan for {0}', name) AS slogan FROM products)
        SELECT a.slogan, b.slogan FROM named a JOIN named b ON a.category = b.category AND a.slogan <> b.slogan
        """,
    ),
    "share-declined-draws": Golden(
        "Each branch draws for itself.",
        """
        SELECT llm('Joke on {0}', name, temperature => 1) AS joke FROM products
        UNION ALL
        SELECT llm('Joke on {0}', name, temperature => 1) FROM products
        """,
    ),
}

LOCATION = {
    "deduplicate-inputs": Golden(
        "300 rows with five different inputs: five calls, joined to the rows.",
        "SELECT id, llm('What do {0} stars mean?', stars) AS meaning FROM reviews",
        {"spark.helium.optimizer.deduplicateInputs.minRows": "100"},
    ),
    "deduplicate-inputs-with-guard": Golden(
        "A guard is an input like any other.",
        "SELECT id, IF(product < 30, llm('What do {0} stars mean?', stars), 'none') AS meaning FROM reviews",
        {"spark.helium.optimizer.deduplicateInputs.minRows": "100"},
    ),
    "deduplicate-declined-order": Golden(
        "A join would lose the order that the query asks for.",
        "SELECT id, llm('What do {0} stars mean?', stars) AS meaning FROM reviews ORDER BY id",
        {"spark.helium.optimizer.deduplicateInputs.minRows": "100"},
    ),
    "place-by-prefix": Golden(
        "Four engines get ranges of what the prompt reads first.",
        "SELECT id, llm('{0}: {1} Does the review fit the product?', product, body) AS fits FROM reviews",
        {"spark.helium.cluster.engines": "4"},
    ),
    "place-by-prefix-order-by": Golden(
        "Below ORDER BY the ranges are those of the order, which stays.",
        "SELECT id, llm('Sum up {0}', body) AS summary FROM reviews ORDER BY id DESC",
        {"spark.helium.cluster.engines": "4"},
    ),
    "place-by-prefix-top-k": Golden(
        "The rows that a limit left are spread in their order.",
        "SELECT id, llm('Sum up {0}', body) AS summary FROM reviews ORDER BY id DESC LIMIT 50",
        {"spark.helium.cluster.engines": "4"},
    ),
    "draw-below-sort": Golden(
        "A sort reads its input twice: an exchange keeps what was drawn.",
        "SELECT id, llm('Joke on {0}', body, temperature => 1) AS joke FROM reviews ORDER BY joke",
    ),
}

FIELDS = {
    "fields-by-sample": Golden(
        "The fields of a record in the order in which the rows at hand share most; a template keeps its own.",
        """
        SELECT llm('Sum up {fields}', fields => struct(body, title, stars, product)) AS a,
               llm('Sum up {0} {1}', body, product) AS b
        FROM reviews
        """,
    ),
    "fields-by-value": Golden(
        "Rows whose values repeat in different fields: the order depends on the values.",
        """
        SELECT llm('Which? {fields}', fields => struct(body, other)) AS a
        FROM (SELECT body, CASE WHEN stars = 1 THEN 'as said before by many' ELSE body || '!' END AS other FROM reviews
              UNION ALL
              SELECT 'the body of those without one', concat(title, body) FROM reviews WHERE title IS NOT NULL)
        """,
    ),
    "fields-declined": Golden(
        "Neither a sample nor statistics: the fields of a record stay as written.",
        """
        SELECT llm('Sum up {fields}', fields => struct(body, product)) AS a
        FROM reviews WHERE rand(1) < 0.5
        """,
    ),
}

OPERATORS = {
    "aggregate-by-answer": Golden(
        "Answers as grouping keys and inside aggregate functions come from one node below.",
        """
        SELECT llm('Angry? {0}', body, choices => array('yes', 'no')) AS angry, count(*) AS n,
               max(llm('Angry? {0}', body, choices => array('yes', 'no'))) AS most
        FROM reviews GROUP BY 1
        """,
    ),
    "aggregate-then-call": Golden(
        "A call over aggregates runs once per group, after HAVING.",
        """
        SELECT product, llm('Sum up {0}', array_join(collect_list(body), '; ')) AS summary
        FROM reviews GROUP BY product HAVING count(*) > 4
        """,
    ),
    "ai-agg": Golden(
        "Texts of a group in the order of the rows, one call per group above the aggregate; HAVING is below it.",
        """
        SELECT product, count(*) AS n, ai_agg(body, 'Sum up.') AS summary
        FROM reviews GROUP BY product HAVING count(*) > 4
        """,
    ),
    "ai-agg-over-answer": Golden(
        "Calls among the texts run below the aggregate, equal aggregates once, and one in a branch where it is taken.",
        """
        SELECT product, ai_agg(llm('Name it: {0}', body), 'Sum up.') AS first,
               CASE WHEN max(stars) > 3 THEN ai_agg(llm('Name it: {0}', body), 'Sum up.') END AS second,
               CASE WHEN min(stars) < 2 THEN ai_summarize_agg(title) END AS third
        FROM reviews GROUP BY product
        """,
    ),
    "ai-agg-partial": Golden(
        "Texts are reduced in their partition first; a filter by the key runs below the calls among them.",
        """
        SELECT product, summary FROM (
          SELECT product, ai_agg(llm('Name it: {0}', body), 'Sum up.', partial => true) AS summary
          FROM reviews GROUP BY product) WHERE product = 7
        """,
    ),
    "ai-agg-partial-beside": Golden(
        "Beside other aggregates, and with DISTINCT.",
        """
        SELECT product, count(*) AS n, avg(stars) AS mean,
               ai_agg(DISTINCT body, 'Sum up.', partial => true, failOnError => false) AS summary
        FROM reviews GROUP BY product
        """,
    ),
    "ai-agg-key-filter": Golden(
        "A filter by the group's key runs below the calls among the texts.",
        """
        SELECT product, summary FROM (
          SELECT product, ai_agg(llm('Name it: {0}', body), 'Sum up.') AS summary
          FROM reviews GROUP BY product) WHERE product = 7
        """,
    ),
    "llm-fold": Golden(
        "A fold is a call like another; one over answers is not glue, and Spark puts the array together.",
        """
        SELECT llm('Shorten: {0}', llm_fold(array(title, body), 'Sum up: {0}', '{0} And: {1}')) AS shorter,
               llm_fold(array(llm('Name it: {0}', body), body), 'Sum up: {0}', '{0} And: {1}') AS named
        FROM reviews
        """,
    ),
    "having-over-answer": Golden(
        "HAVING over a call: the cheap part filters groups before they are asked about.",
        """
        SELECT product, count(*) AS n FROM reviews GROUP BY product
        HAVING count(*) > 4 AND llm('Is {0} fine?', max(body), choices => array('yes', 'no')) = 'yes'
        """,
    ),
    "window-over-answer": Golden(
        "A window by the answer runs above the call; the second call above the window.",
        """
        SELECT id, llm('Rank {0}', row_number() OVER (PARTITION BY angry ORDER BY id)) AS r
        FROM (SELECT id, llm('Angry? {0}', body, choices => array('yes', 'no')) AS angry FROM reviews)
        """,
    ),
    "window-then-filter": Golden(
        "A window that reads no answer, and the filter above it, stay above the call, which runs for every row.",
        """
        SELECT id, summary
        FROM (SELECT id, llm('Sum up {0}', body) AS summary, row_number() OVER (PARTITION BY product ORDER BY id) AS n
              FROM reviews)
        WHERE n = 1
        """,
    ),
    "distinct-answers": Golden(
        "DISTINCT and ORDER BY over answers.",
        "SELECT DISTINCT llm('Angry? {0}', body, choices => array('yes', 'no')) AS angry FROM reviews ORDER BY angry",
    ),
    "exists-with-call": Golden(
        "EXISTS with a call over both sides runs for the distinct pairs of values.",
        """
        SELECT p.name FROM products p
        WHERE EXISTS (SELECT * FROM reviews r WHERE r.product = p.id
                      AND llm('Is {0} about {1}?', r.body, p.name, choices => array('yes', 'no')) = 'yes')
        """,
    ),
    "in-subquery-with-call": Golden(
        "A call in the plan of an IN subquery.",
        """
        SELECT id FROM orders o JOIN products p ON o.product = p.id
        WHERE o.product IN (SELECT product FROM reviews
                            WHERE stars = 1 AND llm('Angry? {0}', body, choices => array('yes', 'no')) = 'yes')
        """,
    ),
    "scalar-subquery": Golden(
        "A scalar subquery with a call in it runs once.",
        """
        SELECT id, name FROM products
        WHERE name < (SELECT max(llm('Name of {0}', body)) FROM reviews WHERE stars = 1)
        """,
    ),
    "scalar-subquery-correlated": Golden(
        "A correlated scalar subquery as argument becomes a join below the call.",
        """
        SELECT id, llm('Sum up {0}', (SELECT max(body) FROM reviews r WHERE r.product = p.id)) AS summary
        FROM products p
        """,
    ),
    "lateral-join": Golden(
        "A call over both sides inside LATERAL runs above the join.",
        """
        SELECT p.id, l.fits FROM products p
        JOIN LATERAL (SELECT llm('Is {0} about {1}?', r.body, p.name) AS fits FROM reviews r
                      WHERE r.product = p.id AND r.stars = 1) l
        """,
    ),
}

LIBRARY = {
    "library-filters-and-labels": Golden(
        "Functions of the library are calls like any other: filters are ordered, a label read twice is one call.",
        """
        SELECT id, ai_classify(body, array('praise', 'blame')) AS label FROM reviews
        WHERE stars < 3 AND ai_filter('Is this about the delivery? {0}', body) AND ai_filter(body, 'it is rude')
          AND ai_classify(body, array('praise', 'blame')) = 'blame'
        """,
    ),
    "library-one-question-three-names": Golden(
        "What is put together with || is a template; the function's name does not tell calls apart.",
        """
        SELECT id, llm('Sum up {0}', body) AS a, ai_gen('Sum up ' || body) AS b,
               ai_query('smollm2-135m', prompt('Sum up {0}', body)) AS c
        FROM reviews
        """,
    ),
    "library-semantic-join": Golden(
        "A filter over both sides of a join: the cheap condition blocks first.",
        """
        SELECT r.id, p.name FROM reviews r
        JOIN products p ON r.product = p.id AND ai_filter('Does {0} praise {1}?', r.body, p.name)
        """,
    ),
    "library-semantic-join-prefilter": Golden(
        "Only the most similar pairs are asked: vectors below the window that ranks them, the filter above it.",
        """
        SELECT id, name FROM (
          SELECT r.id, p.name, body,
            row_number() OVER (PARTITION BY r.id ORDER BY ai_similarity(body, p.name) DESC) AS place
          FROM reviews r JOIN products p ON r.stars > p.id
        ) WHERE place <= 2 AND ai_filter('Does {0} praise {1}?', body, name)
        """,
    ),
    "library-top-k": Golden(
        "A tournament over the texts of a group is one call; the filter on the group runs below it.",
        """
        SELECT product, llm_top_k(bodies, 'the most specific complaint', 2) AS best
        FROM (SELECT product, collect_list(body) AS bodies FROM reviews GROUP BY product) WHERE product > 1
        """,
    ),
    "library-guarded-extract": Golden(
        "A field of an extraction in a branch: the call runs for the rows of the branch.",
        """
        SELECT id, CASE WHEN stars < 3 THEN ai_extract(body, 'problem STRING, since DATE').problem END AS problem
        FROM reviews
        """,
    ),
}

GOLDEN: dict[str, Golden] = {
    **MERGING,
    **PRUNING,
    **GUARDS,
    **PUSH_DOWN,
    **LIMITS,
    **JOINS,
    **FUSION,
    **FILTERS,
    **SHARING,
    **LOCATION,
    **FIELDS,
    **OPERATORS,
    **LIBRARY,
}
