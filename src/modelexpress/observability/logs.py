# SPDX-License-Identifier: Apache-2.0
"""Logs: one event a line, for people or machines, and no line that a name could forge."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from modelexpress.domain.errors import StorageFailed

TRACE = 5
_LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_CONTROLS = {number: f"\\x{number:02x}" for number in (*range(32), 127, *range(128, 160)) if number != 9}


def configure(level: str, form: str, file: Path | None = None, is_quiet: bool = False) -> None:
    """Send the logs of this process to standard error, or to `file`, in the form pretty, compact or json.

    Raises StorageFailed when the file cannot be opened.
    """
    try:
        handler = logging.StreamHandler(sys.stderr) if file is None else _file_handler(file)
    except OSError as error:
        raise StorageFailed(f"logging.file {file} cannot be opened: {error.strerror}") from error
    handler.setFormatter(JsonFormatter() if form == "json" else LineFormatter(is_compact=form == "compact"))
    logging.addLevelName(TRACE, "TRACE")
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("modelexpress").setLevel(logging.ERROR if is_quiet else _LEVELS[level])


def _file_handler(file: Path) -> logging.Handler:
    file.parent.mkdir(parents=True, exist_ok=True)
    return logging.FileHandler(file, encoding="utf-8")


class LineFormatter(logging.Formatter):
    """Time, level, logger and message on one line; compact leaves the date and the logger out."""

    def __init__(self, is_compact: bool) -> None:
        long = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
        super().__init__("%(asctime)s %(levelname)s %(message)s" if is_compact else long)
        self.default_time_format = "%H:%M:%S" if is_compact else "%Y-%m-%d %H:%M:%S"

    def format(self, record: logging.LogRecord) -> str:
        """The line, with control characters escaped; a traceback follows on lines of its own, indented."""
        error, record.exc_info = record.exc_info, None
        text, record.exc_text = record.exc_text, None
        line = super().format(record).translate(_CONTROLS)
        record.exc_info, record.exc_text = error, text
        if error:
            line += "\n    " + self.formatException(error).replace("\n", "\n    ")
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (epoch seconds), level, logger, message, and the traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        event = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["error"] = self.formatException(record.exc_info)
        return json.dumps(event, ensure_ascii=False)
