"""A Spark application on an endpoint, in a process of its own, for test_openai_endpoint.py: prints JSON last.

Everything that it can write goes below the directory it is given: event log, daemon, cache, warehouse.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pyspark.sql import SparkSession

import spark_helium
from spark_helium import cli


def main() -> None:
    home, url = Path(sys.argv[1]), sys.argv[2]
    (home / "events").mkdir()
    builder = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.warehouse.dir", str(home / "warehouse"))
        .config("spark.eventLog.enabled", "true")
        .config("spark.eventLog.compress", "false")
        .config("spark.eventLog.dir", str(home / "events"))
        .config("spark.helium.models.remote.engine", "openai")
        .config("spark.helium.models.remote.path", "org/remote-model")
        .config("spark.helium.models.remote.baseUrl", url)
        .config("spark.helium.models.remote.maxConcurrency", "4")
        .config("spark.helium.model", "remote")
        .config("spark.helium.retries.backoff", "10ms")
    )
    spark = spark_helium.configure(
        builder, engine="simulator", executor_directory=str(home / "d"), cache_directory=str(home / "cache")
    ).getOrCreate()
    rows = spark.range(40).selectExpr(
        "id", "concat('row ', id % 10, if(id = 7, ' bad', ''), if(id = 3, ' busy', '')) AS body"
    )
    rows.createOrReplaceTempView("rows")
    query = """
        SELECT id, llm('Answer {0}', body, failOnError => false) AS answer,
               llm('Choose {0}', body, choices => array('yes', 'no')) AS choice,
               llm('Local {0}', body, model => 'smollm2-135m') AS here
        FROM rows WHERE llm('Keep {0}?', body, choices => array('keep', 'drop')) = 'keep' ORDER BY id
    """
    with spark_helium.measure(spark) as run:
        answers = spark.sql(query).collect()
    spark.sql(query).explain(extended=True)
    print(spark_helium.explain(spark.sql(query), analyze=True))
    failure = ""
    try:
        spark.sql("SELECT llm('Answer {0}', concat(body, ' bad')) AS a FROM rows").collect()
    except Exception as e:
        failure = str(e)
    cli.main(["status", "--set", f"executor.directory={home / 'd'}"])
    cli.main(["status", "--json", "--set", f"executor.directory={home / 'd'}"])
    spark.stop()
    result = {
        "answers": [[r.id, r.answer.response, r.answer.errorMessage, r.choice, r.here] for r in answers],
        "counts": {name: getattr(run, name) for name in (
            "calls_requested", "calls_sent", "answers_from_cache", "calls_failed", "calls_retried", "prompt_tokens",
            "cached_prompt_tokens",
        )},
        "failure": failure,
    }  # fmt: skip
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
