# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.support.conformance FACTS FOLDER [CASE ...]`: run cases against $HF_ENDPOINT.

Needs the client's packages and nothing of ours. FACTS is JSON; one line of JSON for each case goes to
FOLDER/outcomes, as soon as it has ended, so that a client that hangs or dies leaves what came before.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import huggingface_hub
from tests.support.conformance import CASES
from tests.support.conformance.outcomes import outcome_of
from tests.support.conformance.registry import Place, generation_of

CASE_SECONDS = 30


def main() -> None:
    """Run every case that this client and the Hub's facts allow, one after the other."""
    facts, folder, names = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    generation = generation_of(huggingface_hub.__version__)
    signal.signal(signal.SIGALRM, _give_up)
    with (folder / "outcomes").open("w") as lines:
        for name, case in CASES.items():
            if (names and name not in names) or not case.is_for(generation) or case.needs - facts.keys():
                continue
            place, started = Place(os.environ["HF_ENDPOINT"], folder / name, facts), time.monotonic()
            signal.alarm(CASE_SECONDS)
            outcome = outcome_of(case, place)
            signal.alarm(0)
            outcome["seconds"] = round(time.monotonic() - started, 3)
            print(json.dumps([name, outcome]), file=lines, flush=True)


def _give_up(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"no end within {CASE_SECONDS} s")


if __name__ == "__main__":
    main()
