"""``ai_agg`` on the real engine equals the same tree of calls done by hand with vLLM in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import spark_helium
from spark_helium.conf import Settings
from spark_helium.demo import table
from spark_helium.functions import ai_agg
from spark_helium.gpu_executor import models

pytestmark = pytest.mark.engine

GROUPS = 20
BUDGET = 256
INSTRUCTION = "Name what people like, and what they do not like."
TEXTS = [f"Day {day}: {review.body}" for day in range(4) for review in table.load()]


@pytest.fixture(scope="module")
def direct() -> dict[str, list[str] | int]:
    """What ``vllm.LLM`` says, and in how many calls; first, as two engines would take the machine from each other."""
    job = {
        "engine": {
            "model": models.resolve("smollm2-135m", Settings()), "dtype": "float32", "max_model_len": 4096,
            "block_size": 32, "max_num_seqs": 64, "enforce_eager": True, "kv_cache_memory_bytes": 1 << 30,
        },
        "sampling": {"temperature": 0.0, "max_tokens": 24},
        "groups": [[text for i, text in enumerate(TEXTS) if i % GROUPS == k] for k in range(GROUPS)],
        "instruction": INSTRUCTION,
        "budget": BUDGET,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.sql.direct_reduction"],
        input=json.dumps(job), capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    found = re.search(r"^ANSWERS (.*)$", done.stdout, re.MULTILINE)
    assert found is not None, done.stderr[-2000:]
    answers: dict[str, list[str] | int] = json.loads(found.group(1))
    return answers


def test_it_equals_the_reduction_by_hand(direct: dict[str, list[str] | int], tmp_path: Path) -> None:
    builder = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "2")
    )
    spark = spark_helium.configure(
        builder, engine="vllm", executor_directory=str(tmp_path / "d"), cache_directory=str(tmp_path / "cache"),
        agg_tokens=BUDGET,
    ).getOrCreate()  # fmt: skip
    try:
        rows = spark.createDataFrame(list(enumerate(TEXTS)), "id INT, body STRING").repartitionByRange(4, "id")
        query = (
            rows.groupBy((rows.id % GROUPS).alias("k"))
            .agg(ai_agg("body", INSTRUCTION, max_tokens=24).alias("a"))
            .orderBy("k")
        )
        with spark_helium.measure(spark) as run:
            answers = [row.a for row in query.collect()]
        assert answers == direct["answers"]
        assert run.calls_sent == run.calls_requested == direct["calls"]
        assert run.calls_sent > 2 * GROUPS, "trees of more than one level"
        with spark_helium.measure(spark) as again:
            assert [row.a for row in query.collect()] == answers
        assert again.calls_sent == 0
    finally:
        spark.stop()
