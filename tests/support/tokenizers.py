"""Small tokenizers with every habit of adding special tokens: fast by post-processor or by flag, and slow ones."""

from __future__ import annotations

from typing import Any

from tests.support.models import VOCAB, tiny_tokenizer

PAD, BOS, EOS, UNK = range(4)


def processed(template: str, **changes: Any) -> Any:
    """The word-level tokenizer with a post-processor such as `<bos> $A <eos>`."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    names = [("<bos>", BOS), ("<eos>", EOS)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=names)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return tokenizer


def flagged(**flags: bool) -> Any:
    """The word-level tokenizer with `add_bos_token` and `add_eos_token` as given."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer().backend_tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        **flags,
    )


def slow(before: list[int], after: list[int], *, deaf: bool = False) -> Any:
    """A tokenizer in Python with `before` and `after` around every text, even when told not to if it is `deaf`."""
    from transformers import PreTrainedTokenizer

    words = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{number}" for number in range(4, VOCAB))]

    class Slow(PreTrainedTokenizer):  # type: ignore[misc]
        vocab_size = property(lambda self: len(words))

        def get_vocab(self) -> dict[str, int]:
            return {word: place for place, word in enumerate(words)}

        def _tokenize(self, text: str, **_: Any) -> list[str]:
            around = [[words[token] for token in tokens] if deaf else [] for tokens in (before, after)]
            return [*around[0], *text.split(), *around[1]]

        def _convert_token_to_id(self, token: str) -> int:
            return words.index(token) if token in words else UNK

        def _convert_id_to_token(self, index: int) -> str:
            return words[index]

        def build_inputs_with_special_tokens(self, ids: list[int], pair: list[int] | None = None) -> list[int]:
            return ids if deaf else [*before, *ids, *after]

    return Slow(pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")
