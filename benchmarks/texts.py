"""Texts of a given number of words, the same for every run, with one token per word or a little more."""

from __future__ import annotations

import random

WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea kid body "
    "information back parent face others level office door health person art war history party result change morning "
    "reason research girl guy moment air teacher force education good new first last long great little own other old "
    "right big high different small large next early young important few public bad same able"
).split()


def text(seed: str, words: int) -> str:
    """``words`` words that only ``seed`` decides."""
    return " ".join(random.Random(seed).choices(WORDS, k=words))
