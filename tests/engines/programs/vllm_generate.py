# SPDX-License-Identifier: Apache-2.0
"""Loads a model into vLLM by its name or path, and writes the tokens that it generates as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams

PROMPTS = ["the weights are", "whoever asks"]


def main(model: str, result: Path) -> None:
    """The most likely 16 tokens after each prompt, into `result`."""
    engine = LLM(model=model, enforce_eager=True, dtype="float32", max_model_len=64, max_num_seqs=4)
    sampling = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
    answers = engine.generate(PROMPTS, sampling, use_tqdm=False)
    result.write_text(json.dumps([list(answer.outputs[0].token_ids) for answer in answers]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
