"""The table of facts and the ways to say and ask them."""

from __future__ import annotations

import random
import subprocess
import sys

from compress.atlas import phrases, world


def test_size_and_keys() -> None:
    facts = world.facts()
    assert 2000 <= len(facts) <= 6000
    assert len({fact.key for fact in facts}) == len(facts)
    assert all(fact.answer and fact.answer == fact.answer.strip() for fact in facts)


def test_known_facts() -> None:
    answers = {fact.key: fact.answers for fact in world.facts()}
    assert answers["country/France/capital"] == ["Paris"]
    assert answers["country/France/domain"] == [".fr"]
    assert answers["element/gold/symbol"] == ["Au"]
    assert answers["element/gold/number"] == ["79"]
    assert answers["element/hassium/number"] == ["108"]
    assert answers["moon/Titan/planet"] == ["Saturn"]
    assert answers["book/Moby Dick/author"] == ["Herman Melville"]


def test_every_relation_can_be_said_and_asked() -> None:
    for key, group in world.by_relation().items():
        assert len(world.answer_pool(*key)) >= 4, key
        assert all("{s}" in wording and "{a}" in wording for wording in phrases.STATEMENTS[key])
        assert all("{s}" in wording and wording.endswith("?") for wording in phrases.QUESTIONS[key])
        assert group


def test_training_never_asks_in_the_test_wording() -> None:
    rng = random.Random(0)
    for fact in random.Random(1).sample(world.facts(), 300):
        asked = {phrases.training_question(fact, rng) for _ in range(12)}
        assert phrases.test_question(fact) not in asked


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, compress.atlas.items; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
