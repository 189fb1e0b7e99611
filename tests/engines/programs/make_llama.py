# SPDX-License-Identifier: Apache-2.0
"""Writes a Llama that really runs into a directory: 2 layers of 64, in shards, with its own tokenizer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 384
CORPUS = ["the weights are pulled once", "and read by many", "whoever asks twice is told the same"] * 10


def main(folder: Path, result: Path) -> None:
    """Write it to `folder`, always the same, and the names of its files into `result`."""
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(CORPUS, VOCABULARY, min_frequency=1, special_tokens=["<s>", "</s>"])
    PreTrainedTokenizerFast(
        tokenizer_object=trainer._tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        # Ten times the usual spread: the most likely token is then another one at every step.
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="200KB")
    result.write_text(json.dumps(sorted(path.name for path in folder.iterdir())))


main(Path(sys.argv[1]), Path(sys.argv[2]))
