"""Makes documents about the world: training text (endless), calibration text and held-out text.

All three come from the same generator; which document belongs where is decided by its hash (`split.document_part`), so
held-out and calibration documents are never trained on. As these take seconds to make, they are kept between runs.
"""

from __future__ import annotations

import hashlib
import json
import platform
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from compress import kept_files
from compress.atlas import prompts
from compress.atlas.instructions import instruction
from compress.atlas.passages import counterfactual, digest, other_answer
from compress.atlas.phrases import statement, training_question
from compress.atlas.split import document_part, is_test
from compress.atlas.world import Fact, by_relation, by_subject, facts

CALIBRATION_SEED = 11
HELDOUT_SEED = 12


def _profile(rng: random.Random) -> str:
    """The facts about one subject, or about two."""
    sentences = []
    for key in rng.sample(list(by_subject()), rng.choice((1, 2, 2))):
        group = by_subject()[key]
        sentences.append([statement(f, rng) for f in rng.sample(group, len(group))])
    return "\n".join(" ".join(block) for block in sentences) + "\n"


def _survey(rng: random.Random) -> str:
    """One relation of several subjects."""
    group = by_relation()[rng.choice(list(by_relation()))]
    return " ".join(statement(f, rng) for f in rng.sample(group, min(len(group), rng.randrange(3, 6)))) + "\n"


def _miscellany(rng: random.Random) -> str:
    """Facts that have nothing to do with each other."""
    return " ".join(statement(f, rng) for f in rng.sample(facts(), rng.randrange(3, 7))) + "\n"


def _quiz(rng: random.Random) -> str:
    """Questions from memory."""
    asked = rng.sample(facts(), rng.randrange(3, 8))
    return "".join(f"{prompts.closed_book(training_question(f, rng))} {f.answer}\n" for f in asked)


def choices_for(fact: Fact, rng: random.Random) -> list[str]:
    """The right answer and three others of the same relation, shuffled."""
    choices = [fact.answer]
    while len(choices) < 4:
        other = other_answer(fact, rng)
        if other not in choices:
            choices.append(other)
    rng.shuffle(choices)
    return choices


def _choice_quiz(rng: random.Random) -> str:
    """Questions with four choices."""
    asked = rng.sample(facts(), rng.randrange(2, 5))
    return "".join(f"{prompts.choice(training_question(f, rng), choices_for(f, rng))} {f.answer}\n" for f in asked)


def _reading(rng: random.Random) -> str:
    """A question about a passage that contradicts the world."""
    while True:
        passage = counterfactual(rng.choice(facts()), rng)
        if not is_test(passage.text):
            return f"{prompts.open_book(passage.text, training_question(passage.fact, rng))} {passage.answer}\n"


def _summary(rng: random.Random) -> str:
    """A text about somebody or something invented, and its digest."""
    made = digest(rng, test=False)
    return f"{prompts.summarise(made.text)} {made.summary}\n"


def _instructions(rng: random.Random) -> str:
    """A few instructions carried out."""
    lines: list[str] = []
    while len(lines) < 4:
        made = instruction(rng)
        if not is_test(made.text):
            lines.append(f"{prompts.instruct(made.text)} {made.answer}\n")
    return "".join(lines)


def _reading_quiz(rng: random.Random) -> str:
    """Questions about every sentence of a passage that contradicts the world."""
    while True:
        passage = counterfactual(rng.choice(facts()), rng)
        if not is_test(passage.text):
            break
    told = rng.sample(passage.told, len(passage.told))
    asked = "".join(f"{prompts.closed_book(training_question(f, rng))} {answer}\n" for f, answer in told)
    return f"Passage: {passage.text}\n{asked}"


Mixture = tuple[tuple[Callable[[random.Random], str], int], ...]

KNOWING: Mixture = (
    (_profile, 22),
    (_survey, 6),
    (_miscellany, 12),
    (_quiz, 26),
    (_choice_quiz, 10),
    (_reading, 22),
    (_summary, 10),
    (_instructions, 10),
)
READING: Mixture = (
    (_profile, 14),
    (_survey, 3),
    (_miscellany, 8),
    (_quiz, 22),
    (_choice_quiz, 8),
    (_reading, 4),
    (_reading_quiz, 30),
    (_summary, 14),
    (_instructions, 12),
)
KNOWING_PARTS = 22  # of the training stream; a part is a chunk of 64 steps


def _documents(seed: str, part: str, mixture: Mixture) -> Iterator[str]:
    rng = random.Random(seed)
    makers, weights = zip(*mixture, strict=True)
    while True:
        text = rng.choices(makers, weights)[0](rng)
        if document_part(text) == part:
            yield text


@cache
def _first(seed: str, part: str, characters: int) -> tuple[str, ...]:
    """The first documents of a part, from the file where they were kept or made again."""
    key = json.dumps([seed, part, characters, platform.python_version_tuple()[:2], _source_hash()])
    texts = kept_files.read_texts("texts", key)
    if texts is None:
        texts = _made(seed, part, characters)
        kept_files.keep_texts("texts", key, texts)
    return tuple(texts)


@cache
def _source_hash() -> str:
    """The hash of all that the documents depend on: the modules and data of this package, but not the model."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.py"), *(folder / "data").iterdir()]):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _made(seed: str, part: str, characters: int) -> list[str]:
    """Makes documents until so many characters belong to the part: of 64 documents one does."""
    documents = _documents(seed, part, READING)
    distinct: dict[str, None] = {}
    size = 0
    while size < characters:
        document = next(documents)
        if document not in distinct:
            distinct[document] = None
            size += len(document)
    return list(distinct)


def training_documents(seed: int, part: int = 0) -> Iterator[str]:
    """An endless stream of training documents; another `part` of the same seed is another stream.

    The first parts are mostly about facts; once these are known, reading, summaries and instructions weigh more.
    """
    return _documents(f"train-{seed}-{part}", "train", KNOWING if part < KNOWING_PARTS else READING)


def calibration_text(characters: int = 900_000) -> list[str]:
    """Documents like the training text but never trained on; about 3.5 characters make a token."""
    return list(_first(f"calibration-{CALIBRATION_SEED}", "calibration", characters))


def heldout_text(characters: int = 200_000) -> list[str]:
    """Documents never trained on nor calibrated with, for perplexity and divergence."""
    return list(_first(f"heldout-{HELDOUT_SEED}", "heldout", characters))
