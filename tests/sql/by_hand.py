"""The reduction of ``ai_agg`` as somebody would write it without spark_helium: level by level, in plain lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence

SEPARATOR = "\n---\n"


def leaf_prompt(instruction: str, texts: Sequence[str]) -> str:
    return (
        "Follow the instruction for all of the texts together. Lines of --- stand between the texts.\n\n"
        f"Instruction: {instruction}\n\nTexts:\n{SEPARATOR.join(texts)}"
    )


def merge_prompt(instruction: str, answers: Sequence[str]) -> str:
    return (
        "Groups of texts were handled under the instruction, one after the other. Put their results, between which "
        f"lines of --- stand, together into one result for all texts.\n\nInstruction: {instruction}\n\n"
        f"Results:\n{SEPARATOR.join(answers)}"
    )


def reduce_by_hand(
    groups: Sequence[Sequence[str]],
    instruction: str,
    budget: int,
    ask: Callable[[list[str]], list[str]],
    prompt_tokens: Callable[[str], int],
    of_answers: bool = False,
) -> list[str]:
    """One answer per group, for groups whose texts fit the budget one by one.

    With ``of_answers`` the texts are answers of such reductions. ``ask`` answers prompts, all of one level at once;
    ``prompt_tokens`` is the length of a prompt of one message.
    """
    empty = prompt_tokens(f"|{SEPARATOR}|")

    def chunks(texts: Sequence[str], least: int) -> list[list[str]]:
        out: list[list[str]] = [[]]
        used = 0
        for text in texts:
            tokens = prompt_tokens(f"|{SEPARATOR}{text}{SEPARATOR}|") - empty + 1
            if used + tokens > budget and len(out[-1]) >= least:
                out.append([])
                used = 0
            out[-1].append(text)
            used += tokens
        return out

    levels = [list(group) for group in groups]
    prompt, least = (merge_prompt, 2) if of_answers else (leaf_prompt, 1)
    while any(len(texts) > 1 for texts in levels) or prompt is leaf_prompt:
        places, prompts = [], []
        for g, texts in enumerate(levels):
            if len(texts) == 1 and prompt is merge_prompt:
                continue
            for chunk in chunks(texts, least):
                places.append((g, len(prompts) if len(chunk) > 1 or prompt is leaf_prompt else chunk[0]))
                if len(chunk) > 1 or prompt is leaf_prompt:
                    prompts.append(prompt(instruction, chunk))
        answers = ask(prompts)
        touched = {g for g, _ in places}
        for g in touched:
            levels[g] = []
        for g, place in places:
            levels[g].append(answers[place] if isinstance(place, int) else place)
        prompt, least = merge_prompt, 2
    return [texts[0] for texts in levels]
