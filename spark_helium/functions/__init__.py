"""LLM calls as Column functions, the same on classic and Spark Connect sessions.

Each function is the SQL function of the same name and needs no access to the JVM. Catalyst checks the call; what
is checked here is what only Python can get wrong. ``docs/functions.md`` lists them all.
"""

from __future__ import annotations

from spark_helium.functions._arguments import CallOptions, TextOptions
from spark_helium.functions.aggregates import (
    AggregateOptions,
    UnrolledOptions,
    ai_agg,
    ai_summarize_agg,
    llm_fold,
    llm_top_k,
)
from spark_helium.functions.classification import ai_analyze_sentiment, ai_classify, ai_filter, ai_sentiment
from spark_helium.functions.core import llm, prompt
from spark_helium.functions.embeddings import ai_count_tokens, ai_embed, ai_similarity
from spark_helium.functions.extraction import ai_extract
from spark_helium.functions.queries import ai_complete, ai_gen, ai_query
from spark_helium.functions.scores import ai_score
from spark_helium.functions.texts import ai_fix_grammar, ai_mask, ai_summarize, ai_translate

__all__ = [
    "AggregateOptions",
    "CallOptions",
    "TextOptions",
    "UnrolledOptions",
    "ai_agg",
    "ai_analyze_sentiment",
    "ai_classify",
    "ai_complete",
    "ai_count_tokens",
    "ai_embed",
    "ai_extract",
    "ai_filter",
    "ai_fix_grammar",
    "ai_gen",
    "ai_mask",
    "ai_query",
    "ai_score",
    "ai_sentiment",
    "ai_similarity",
    "ai_summarize",
    "ai_summarize_agg",
    "ai_translate",
    "llm",
    "llm_fold",
    "llm_top_k",
    "prompt",
]
