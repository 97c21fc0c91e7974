"""Agent workflows of the Helium paper (arXiv 2603.16104) as plain DataFrame columns; the prompts are ours."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_helium.functions import llm

Message = tuple[str, "Column | str"]


def chat(*messages: Message) -> Column:
    """A conversation that the planner sees through."""
    return F.array(
        *[
            F.struct(F.lit(role).alias("role"), (text if isinstance(text, Column) else F.lit(text)).alias("content"))
            for role, text in messages
        ]
    )


def debate(df: DataFrame, agents: int = 3) -> DataFrame:
    """Two rounds of ``agents`` that answer a question and revise their answers, and a summary: 2 x agents + 1 calls."""
    roles = ["doubts everything", "looks for examples", "counts"][:agents]
    ask = {
        i: F.concat(F.lit("The question is: "), F.col("question"), F.lit(f" Answer as somebody who {role}."))
        for i, role in enumerate(roles)
    }
    for i in range(agents):
        df = df.withColumn(f"r1_{i}", llm(chat(("system", "You debate."), ("user", ask[i])), max_tokens=32))
    for i in range(agents):
        others = [F.concat(F.lit("\nAnother says: "), F.col(f"r1_{j}")) for j in range(agents) if j != i]
        revise = F.concat(*others, F.lit("\nRevise your answer."))
        history = [("system", "You debate."), ("user", ask[i]), ("assistant", F.col(f"r1_{i}"))]
        df = df.withColumn(f"r2_{i}", llm(chat(*history, ("user", revise)), max_tokens=32))
    texts = F.concat_ws("\n", *[F.col(f"r2_{i}") for i in range(agents)])
    summary = F.when(F.col("question").isNotNull(), llm("Sum up: {0}", texts, max_tokens=32))
    return df.withColumn("summary", summary).select("id", "summary", *[f"r2_{i}" for i in range(agents)])


def trading(df: DataFrame, traders: int = 8) -> DataFrame:
    """Analysts, researchers, traders with a risk debate each, and a fund manager: 88 calls, 56 of them distinct."""
    analysts = {
        "fu": ("You read company reports.", [f"doc{i}" for i in range(4)], "profile"),
        "ma": ("You read market tables.", ["prices", "statistics"], None),
        "ne": ("You read the news.", [f"news{i}" for i in range(5)], None),
        "so": ("You read what people say.", [f"social{i}" for i in range(3)], None),
    }

    def call(system: str, *parts: Column | str) -> Column:
        text = F.concat(*[p if isinstance(p, Column) else F.lit(p) for p in parts])
        return llm("{0}", text, system=system, max_tokens=16)

    stock = F.col("stock")
    for name, (system, documents, extra) in analysts.items():
        more = [F.lit(" "), F.col(extra)] if extra else []
        for document in documents:
            df = df.withColumn(
                f"{name}_{document}", call(system, "Extract about ", stock, *more, ": ", F.col(document))
            )
        notes = [F.concat(F.lit("\n- "), F.col(f"{name}_{document}")) for document in documents]
        df = df.withColumn(name, call(system, "Report on ", stock, *more, *notes))
    reports = [F.lit("\nreports: "), *[F.concat(F.col(n), F.lit("; ")) for n in ("fu", "so", "ma", "ne")]]

    first, second = {}, {}
    for side, system in (("b", "You are a bull."), ("d", "You are a bear.")):
        first[side] = [("system", system), ("user", F.concat(F.lit("Argue on "), stock, *reports))]
        df = df.withColumn(f"{side}1", llm(chat(*first[side]), max_tokens=16))
    for side, other in (("b", "d"), ("d", "b")):
        second[side] = [*first[side], ("assistant", F.col(f"{side}1"))]
        reply = F.concat(F.lit("They say: "), F.col(f"{other}1"), F.lit(" Reply."))
        df = df.withColumn(f"{side}2", llm(chat(*second[side], ("user", reply)), max_tokens=16))
    dialogue = F.concat_ws("\n", "b1", "d1", "b2", "d2")
    df = df.withColumn("mg", call("You manage research.", "Decide on ", stock, ": ", dialogue))

    risks = {"risky": "You like risk.", "safe": "You avoid risk.", "neutral": "You weigh risk."}
    for t in range(traders):
        style = ["bold", "careful", "patient", "quick"][t % 4]  # each style twice
        df = df.withColumn(f"t{t}", call(f"You are a {style} trader.", "Trade ", stock, " given ", F.col("mg")))
        histories = {}
        for risk, system in risks.items():
            plan = F.concat(F.lit("Judge for "), stock, *reports, F.lit("\nplan: "), F.col(f"t{t}"))
            histories[risk] = [("system", system), ("user", plan)]
            df = df.withColumn(f"k{t}_{risk}", llm(chat(*histories[risk]), max_tokens=16))
        all_said = F.concat_ws("\n", *[F.col(f"k{t}_{risk}") for risk in risks])
        for risk in risks:
            history = [*histories[risk], ("assistant", F.col(f"k{t}_{risk}"))]
            df = df.withColumn(f"l{t}_{risk}", llm(chat(*history, ("user", all_said)), max_tokens=16))
        said = F.concat_ws("\n", *[F.col(f"{k}{t}_{risk}") for k in "kl" for risk in risks])
        df = df.withColumn(f"j{t}", call("You judge.", "Decide on ", stock, ": ", said))
    verdicts = F.concat_ws("\n", *[F.col(f"j{t}") for t in range(traders)])
    return df.select("stock", call("You manage a fund.", "Decide on ", stock, ": ", verdicts).alias("decision"))
