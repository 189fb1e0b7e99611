# SPDX-License-Identifier: Apache-2.0
"""Loads a model with transformers by its name or path onto a device, and writes what it has and says."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def main(model: str, device: str, result: Path) -> None:
    """Configuration, tokens of a text, a digest of each weight and 16 generated tokens, into `result`."""
    config = AutoConfig.from_pretrained(model)
    prompt = AutoTokenizer.from_pretrained(model)("whoever asks twice", return_tensors="pt").to(device)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).to(device).eval()
    tokens = loaded.generate(**prompt, do_sample=False, min_new_tokens=16, max_new_tokens=16)
    weights = {
        name: hashlib.sha256(tensor.contiguous().cpu().numpy().tobytes()).hexdigest()
        for name, tensor in loaded.state_dict().items()
    }
    told = {
        "layers": config.num_hidden_layers,
        "device": loaded.device.type,
        "tokens": tokens.tolist(),
        "weights": weights,
    }
    result.write_text(json.dumps(told))


main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
