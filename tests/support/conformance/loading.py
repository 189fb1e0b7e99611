# SPDX-License-Identifier: Apache-2.0
"""A model's configuration and tokenizer, loaded as a program that runs the model loads them."""

from __future__ import annotations

from pathlib import Path

from tests.support.conformance.registry import Place, case


@case("words")
def loading_a_configuration(at: Place) -> object:
    # Imported here: it takes seconds, and most readers of this list have no need of it.
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(at["words"], cache_dir=at.cache, token=False).to_dict()
    return {key: found[key] for key in ("model_type", "hidden_size", "vocab_size")}


@case("words")
def loading_a_tokenizer(at: Place) -> object:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(at["words"], cache_dir=at.cache, token=False)
    return [type(tokenizer).__name__, tokenizer("a word is a word")["input_ids"], len(tokenizer)]


@case("words", "words_tag")
def loading_at_a_tag(at: Place) -> object:
    from transformers import AutoTokenizer

    asked = {"cache_dir": at.cache, "token": False, "revision": at["words_tag"]}
    return AutoTokenizer.from_pretrained(at["words"], **asked)("a word")["input_ids"]


@case("missing")
def loading_what_is_missing(at: Place) -> object:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(at["missing"], cache_dir=at.cache, token=False)
    except OSError as error:
        # The same class stands for a Hub that is out of reach.
        return [type(error).__name__, str(error).splitlines()[0]]


@case("gated", "member")
def loading_what_is_gated(at: Place) -> object:
    from transformers import AutoConfig

    told = []
    for caller in ("", "member"):
        try:
            found = AutoConfig.from_pretrained(at["gated"], cache_dir=at.cache, token=at.token(caller))
            told.append(found.model_type)
        except OSError as error:
            told.append(type(error).__name__)
    return told


def write_tokenizer(path: Path) -> None:
    """Make a real tokenizer, with the package that reads it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(("<unk>", "a", "word", "is"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
