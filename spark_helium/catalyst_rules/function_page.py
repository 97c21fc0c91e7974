"""The page of all SQL functions, made from the catalog in the jar.

Runs as ``python -m spark_helium.catalyst_rules.function_page``. DESCRIBE FUNCTION EXTENDED shows the same texts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from spark_helium.catalyst_rules import jar
from spark_helium.catalyst_rules.compiler import PySpark, find_java
from spark_helium.errors import BuildError

PAGE = Path(__file__).parents[2] / "docs" / "functions.md"

_MAIN = "org.apache.spark.sql.helium.expressions.FunctionCatalogJson"
_STATEMENT = re.compile(r"^ *> (.*?);[ ]*$\n?((?:(?! *> ).*\n?)*)", re.DOTALL | re.MULTILINE)
_INTRODUCTION = """\
# Functions

Every function here is one in SQL and, with the same name, in `spark_helium.functions`, where options are keywords in
lower case with underscores. `DESCRIBE FUNCTION EXTENDED ai_classify` shows what stands here. The page is made from the
catalog of functions: `make function-docs`.

In SQL, arguments may be given by position or by name (`content => body`). In Python a string is the name of a column
where an argument is one, as everywhere in PySpark; text is `F.lit("...")`. What is constant (labels, schemas,
conditions, options) is given as Python values:

```python
from pyspark.sql import functions as F
from spark_helium.functions import ai_classify, ai_filter, ai_query, ai_similarity, ai_translate

reviews.where(ai_filter("body", condition="The customer wants the money back.")).select(
    ai_classify("body", labels=["praise", "complaint"]),
    ai_query("smollm2-135m", F.concat(F.lit("Reply to: "), "body"), model_parameters={"max_tokens": 20}),
    ai_similarity("body", F.lit("too heavy")),
    ai_translate("body", "de", from_lang="en"),
)
```

NULL in an argument that is a column gives NULL and
makes no call. All functions become LLM calls that the optimizer sees: equal calls are made once, filters run in the
order that costs least, and what the prompts of a query share is computed once. `EXPLAIN` shows the prompt that a
function sends.

Names that other products have for the same:

| there | here |
|---|---|
| Snowflake `AI_COMPLETE`, `SNOWFLAKE.CORTEX.COMPLETE`; BigQuery `AI.GENERATE` | `ai_complete`, `ai_gen` |
| Snowflake `AI_FILTER`, `AI_CLASSIFY`, `AI_EXTRACT`, `AI_SENTIMENT`, `AI_TRANSLATE` | the same |
| Snowflake `AI_AGG`, `AI_SUMMARIZE_AGG`, `AI_EMBED`, `AI_SIMILARITY`, `AI_COUNT_TOKENS` | the same |
| Databricks `ai_query`, `ai_gen`, `ai_mask`, `ai_fix_grammar`, `ai_analyze_sentiment`, ... | the same |
| BigQuery `AI.IF`, `AI.SCORE`, `AI.CLASSIFY` | `ai_filter`, `ai_score`, `ai_classify` |

Names with a dot in them cannot be functions of a Spark extension. `INSERT INTO t VALUES (ai_gen('hi'))` is refused by
Spark, whose inline tables take no calls: write `INSERT INTO t SELECT ai_gen('hi')`. UPDATE and MERGE take no calls
either: write the answers to a table first.

The examples read the table of the demo:
`spark_helium.demo.table.reviews(spark).createOrReplaceTempView("reviews")`.
"""


@dataclass(frozen=True, slots=True)
class Example:
    """An SQL statement, and the lines of its result where they do not depend on a model."""

    statement: str
    result: str


@dataclass(frozen=True, slots=True)
class Function:
    """One entry of the catalog."""

    name: str
    group: str
    usage: str
    arguments: str
    examples: tuple[Example, ...]


def catalog() -> list[Function]:
    """The documented functions, as the jar of this checkout has them.

    Raises
    ------
    BuildError
        There is no jar, or it does not print its catalog.
    """
    pyspark, java = PySpark.find(), find_java()
    path = os.pathsep.join([str(jar.locate()), str(pyspark.jars / "*")])
    options = ["-Dlog4j2.level=error", "--add-opens=java.base/java.nio=ALL-UNNAMED"]
    command = [str(java), *options, "-cp", path, _MAIN]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    printed = next((line for line in done.stdout.splitlines() if line.startswith("[{")), None)
    if done.returncode != 0 or printed is None:
        raise BuildError(f"the jar did not print its functions (status {done.returncode}):\n{done.stderr[-2000:]}")
    return [
        Function(
            name=entry["name"],
            group=entry["group"],
            usage=entry["usage"],
            arguments=entry["arguments"],
            examples=tuple(examples_in(entry["examples"])),
        )
        for entry in json.loads(printed)
    ]


def examples_in(text: str) -> Iterable[Example]:
    """The statements of a catalog entry: each begins with ``> `` and ends with a semicolon at the end of a line."""
    for match in _STATEMENT.finditer(text):
        lines = match[1].splitlines()
        # What follows the first line is set in below the word SELECT.
        statement = "\n".join([lines[0], *(f"  {line.strip()}" for line in lines[1:])])
        yield Example(statement, "\n".join(line.strip() for line in match[2].splitlines() if line.strip()))


def page(functions: Sequence[Function]) -> str:
    """The page as Markdown."""
    groups = [(name, list(members)) for name, members in groupby(functions, key=lambda f: f.group)]
    parts = [_INTRODUCTION, "| | |\n|---|---|"]
    for name, members in groups:
        links = ", ".join(f"[`{f.name}`](#{f.name})" for f in members)
        parts[-1] += f"\n| {name} | {links} |"
    parts[-1] += "\n"
    for name, members in groups:
        parts.append(f"## {name}\n")
        parts += [_entry(f) for f in members]
    return "\n".join(parts)


def _entry(f: Function) -> str:
    call, _, meaning = f.usage.partition(" - ")
    calls = ", ".join(f"`{one.strip()}`" for one in call.split(" or ")) if call else f"`{f.name}`"
    statements = [f"{e.statement};" + "".join(f"\n-- {line}" for line in e.result.splitlines()) for e in f.examples]
    lines = [f"### {f.name}\n", f"{calls}\n", f"{meaning}\n", *_bullets(f.arguments), "", "```sql"]
    return "\n".join([*lines, *statements, "```\n"])


def _bullets(arguments: str) -> list[str]:
    bullets: list[str] = []
    for line in arguments.splitlines()[1:]:
        text = line.strip().replace("<", "\\<")  # Markdown takes STRUCT<a, b> for a tag
        if text.startswith("* "):
            name, _, rest = text[2:].partition(" - ")
            bullets.append(f"- `{name}`: {rest}")
        elif text and text != "Arguments:":
            bullets.append(f"  {text}")
    return bullets


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or with ``--check`` say whether it is current."""
    parser = argparse.ArgumentParser(prog="python -m spark_helium.catalyst_rules.function_page", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is not current")
    check = parser.parse_args(arguments).check
    text = page(catalog())
    if check:
        if PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE} is not current; run: make function-docs", file=sys.stderr)
            return 1
    else:
        PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
