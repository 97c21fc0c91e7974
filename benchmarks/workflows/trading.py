"""Trading: analysts, a debate of bull and bear, eight traders with a risk debate each, a fund manager. 88 calls a row.

The eight traders have four styles, each twice, as in the paper: 56 of the 88 calls are distinct.
"""

from __future__ import annotations

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks.data import Tables, sample_rows, shorten
from benchmarks.jobs import Job, Step
from benchmarks.systems.base import Ask
from benchmarks.workflows.conversation import Message, Size, conversation
from spark_helium.functions import prompt

CPU = Size(rows=2, max_tokens=12, characters=300)
PAPER = Size(rows=16, max_tokens=512, characters=100_000)
DISTINCT, CALLS = 56, 88
TRADERS = 8

ANALYSTS = {
    "fundamentals": (
        (
            "You read what a company publishes about itself: its profile and its statements. You look for growth, "
            "debt, margins and cash, and you tell what is solid from what is only said."
        ),
        ("balance", "income", "cash_flow", "insiders"),
    ),
    "market": (
        (
            "You read tables of prices and of technical indicators. The first column is a date, the newest first. You "
            "look for trends and for their ends, for volume that confirms a move or does not, for moving averages that "
            "cross, for momentum that fades, and for bands that widen or close. You say what the numbers show and name "
            "the days that you mean, and you do not tell stories about them."
        ),
        ("prices", "indicators"),
    ),
    "news": (
        (
            "You read headlines about a company. You tell news from noise, what is new from what is repeated, and you "
            "say what each piece of news may mean for the company's earnings."
        ),
        tuple(f"news_{k}" for k in range(5)),
    ),
    "social": (
        (
            "You read what people post about a company's stock. You look for the mood, for how it changes and for what "
            "it is about. You know that those who post most know least, that many repeat each other, and that some "
            "want to sell something."
        ),
        tuple(f"social_{k}" for k in range(3)),
    ),
}
EXTRACT = "Note what in this document matters for the stock {stock}."
REPORT = "Write your report on the stock {stock} from your notes."
DEBATERS = {
    "bull": (
        (
            "You argue for buying. You find what speaks for the company in the reports of the analysts, you put it as "
            "strongly as it allows, and you answer what the other side says instead of repeating yourself."
        ),
        "bear",
    ),
    "bear": (
        (
            "You argue against buying. You find the risks that the reports of the analysts show or pass over, you put "
            "them as strongly as they allow, and you answer what the other side says instead of repeating yourself."
        ),
        "bull",
    ),
}
MANAGER = (
    "You manage the research of a fund. You listen to a bull and a bear, decide who has the better reasons, and write "
    "a plan: buy, hold or sell, why, and what would change your mind. You do not split the difference to please both."
)
STYLES = (
    "You are a bold trader: you take large positions when you are convinced, and close them fast when you are wrong.",
    "You are a careful trader: you take small positions, and you want two reasons that do not depend on each other.",
    "You are a patient trader: you wait for a good price, and hold a position for months when nothing changes.",
    "You are a quick trader: you trade on what moves this week, and you do not mind what a company is worth.",
)
RISKS = {
    "risky": "You look at a trader's plan as somebody who likes risk: say where it is too timid and what that loses.",
    "safe": "You look at a trader's plan as somebody who guards the money: say what can go wrong and what it costs.",
    "neutral": "You look at a trader's plan without a preference: say which risks are paid for and which are not.",
}
JUDGE = (
    "You judge a debate about the risk of a trader's plan. You decide between its sides by their reasons, and you "
    "state the trade as it is to be done: direction, size, and when to close it."
)
FUND_MANAGER = (
    "You manage a fund. Several traders propose trades in one stock, and each trade was judged. Decide what the fund "
    "does, so that its trades do not work against each other."
)

REPORTS = "\n\nReports of the analysts.\nCompany: {fundamentals}\nPosts: {social}\nMarket: {market}\nNews: {news}"
ARGUE = "Stock: {stock}" + REPORTS + "\n\nMake your case in a few sentences."
DECIDE = (
    "Stock: {stock}\n\nThe debate.\nBull: {bull_1}\nBear: {bear_1}\nBull: {bull_2}\nBear: {bear_2}\n\nWrite the plan."
)
TRADE = (
    "Here is the plan of the research manager for {stock}: {plan}\n\n"
    "Say what you would trade, how much, and when you would close it."
)
FUND = (
    "Stock: {stock}\n\nTrades, as judged:"
    + "".join(f"\n{t + 1}. {{judged_{t}}}" for t in range(TRADERS))
    + "\n\nDecide."
)


def notes_template(analyst: str, document: str) -> str:
    profile = "\n\nProfile: {profile}" if analyst == "fundamentals" else ""
    return f"{EXTRACT}{profile}\n\nDocument:\n{{{document}}}"


def report_template(analyst: str) -> str:
    profile = "\n\nProfile: {profile}" if analyst == "fundamentals" else ""
    notes = "".join(f"\n- {{notes_{document}}}" for document in ANALYSTS[analyst][1])
    return f"{REPORT}{profile}\n\nNotes:{notes}"


def reply_template(side: str) -> str:
    return f"The other side says: {{{DEBATERS[side][1]}_1}}\n\nAnswer them."


def risk_template(trader: int) -> str:
    return f"Stock: {{stock}}{REPORTS}\n\nThe trader's plan: {{trade_{trader}}}\n\nWhat do you say about its risk?"


def risk_reply_template(trader: int) -> str:
    said = "".join(f"\n{risk.capitalize()}: {{{risk}_{trader}}}" for risk in RISKS)
    return f"This is what was said:{said}\n\nAnswer the others."


def judge_template(trader: int) -> str:
    said = "".join(f"\n{risk.capitalize()}: {{{risk}_{trader}}}" for risk in RISKS)
    again = "".join(f"\n{risk.capitalize()}: {{{risk}_again_{trader}}}" for risk in RISKS)
    return f"Stock: {{stock}}\n\nThe debate.{said}{again}\n\nState the trade."


def table(tables: Tables, size: Size, seed: int) -> pd.DataFrame:
    found = sample_rows(tables["trading"], size.rows, seed)
    # The file has one text of fundamentals; its lines are dealt out as the four documents of the paper.
    documents = []
    for row in found.to_dict("records"):
        lines = str(row["fundamentals"]).splitlines() or [""]
        if len(lines) == 1:
            words = lines[0].split()
            lines = [" ".join(words[k::4]) for k in range(4)]
        entry = {"stock": row["ticker"], "profile": row["company_profile"]}
        for k, name in enumerate(ANALYSTS["fundamentals"][1]):
            entry[name] = "\n".join(lines[k::4]) or "nothing is known"
        entry["prices"], entry["indicators"] = row["price_history"], row["technical_indicators"]
        news, posts = list(row["news"]), list(row["social_posts"])
        for k in range(5):
            entry[f"news_{k}"] = "\n".join(news[k * 10 : k * 10 + 10]) or f"no news in part {k + 1}"
        for k in range(3):
            entry[f"social_{k}"] = "\n".join(posts[k * 10 : k * 10 + 10]) or f"no posts in part {k + 1}"
        documents.append(entry)
    made = pd.DataFrame(documents)
    for name in made.columns.drop("stock"):
        made[name] = shorten(made[name], size.characters)
    return made


def workflow(df: DataFrame, llm: Ask, size: Size, tag: str) -> DataFrame:
    n = size.max_tokens
    about = {"stock": "stock"}

    for analyst, (who, documents) in ANALYSTS.items():
        known = {**about, "profile": "profile"} if analyst == "fundamentals" else about
        for document in documents:
            template = notes_template(analyst, document)
            notes = llm(template, **known, **{document: document}, system=tag + who, max_tokens=n)
            df = df.withColumn(f"notes_{document}", notes)
        notes = {f"notes_{document}": f"notes_{document}" for document in documents}
        df = df.withColumn(analyst, llm(report_template(analyst), **known, **notes, system=tag + who, max_tokens=n))
    reports = {analyst: analyst for analyst in ANALYSTS}

    case: dict[str, list[Message]] = {}
    for side, (who, _) in DEBATERS.items():
        case[side] = [("system", tag + who), ("user", prompt(ARGUE, **about, **reports))]
        df = df.withColumn(f"{side}_1", llm(conversation(case[side]), max_tokens=n))
    for side, (_, other) in DEBATERS.items():
        reply = prompt(reply_template(side), **{f"{other}_1": f"{other}_1"})
        history = [*case[side], ("assistant", F.col(f"{side}_1")), ("user", reply)]
        df = df.withColumn(f"{side}_2", llm(conversation(history), max_tokens=n))
    debate = {f"{side}_{k}": f"{side}_{k}" for side in DEBATERS for k in (1, 2)}
    df = df.withColumn("plan", llm(DECIDE, **about, **debate, system=tag + MANAGER, max_tokens=n))

    for t in range(TRADERS):
        style = STYLES[t % len(STYLES)]
        df = df.withColumn(f"trade_{t}", llm(TRADE, **about, plan="plan", system=tag + style, max_tokens=n))
        view: dict[str, list[Message]] = {}
        for risk, who in RISKS.items():
            question = prompt(risk_template(t), **about, **reports, **{f"trade_{t}": f"trade_{t}"})
            view[risk] = [("system", tag + who), ("user", question)]
            df = df.withColumn(f"{risk}_{t}", llm(conversation(view[risk]), max_tokens=n))
        first = {f"{risk}_{t}": f"{risk}_{t}" for risk in RISKS}
        for risk in RISKS:
            reply = prompt(risk_reply_template(t), **first)
            history = [*view[risk], ("assistant", F.col(f"{risk}_{t}")), ("user", reply)]
            df = df.withColumn(f"{risk}_again_{t}", llm(conversation(history), max_tokens=n))
        second = {f"{risk}_again_{t}": f"{risk}_again_{t}" for risk in RISKS}
        judged = llm(judge_template(t), **about, **first, **second, system=tag + JUDGE, max_tokens=n)
        df = df.withColumn(f"judged_{t}", judged)
    trades = {f"judged_{t}": f"judged_{t}" for t in range(TRADERS)}
    decision = llm(FUND, **about, **trades, system=tag + FUND_MANAGER, max_tokens=n)
    return df.select("stock", decision.alias("decision"))


def job(size: Size, tag: str) -> Job:
    n = size.max_tokens
    steps = []
    for analyst, (who, documents) in ANALYSTS.items():
        for document in documents:
            steps.append(Step(f"notes_{document}", notes_template(analyst, document), tag + who, max_tokens=n))
        steps.append(Step(analyst, report_template(analyst), tag + who, max_tokens=n))
    steps += [Step(f"{side}_1", ARGUE, tag + who, max_tokens=n) for side, (who, _) in DEBATERS.items()]
    steps += [Step(f"{side}_2", reply_template(side), history=f"{side}_1", max_tokens=n) for side in DEBATERS]
    steps.append(Step("plan", DECIDE, tag + MANAGER, max_tokens=n))
    for t in range(TRADERS):
        steps.append(Step(f"trade_{t}", TRADE, tag + STYLES[t % len(STYLES)], max_tokens=n))
        steps += [Step(f"{risk}_{t}", risk_template(t), tag + who, max_tokens=n) for risk, who in RISKS.items()]
        steps += [
            Step(f"{risk}_again_{t}", risk_reply_template(t), history=f"{risk}_{t}", max_tokens=n) for risk in RISKS
        ]
        steps.append(Step(f"judged_{t}", judge_template(t), tag + JUDGE, max_tokens=n))
    return Job((*steps, Step("decision", FUND, tag + FUND_MANAGER, max_tokens=n)), ("decision",))
