# SPDX-License-Identifier: Apache-2.0
"""What the command line does with settings, in one place to load it from."""

from modelexpress.config.generate import (
    Migrated,
    check_format,
    check_target,
    generate_default,
    migrate,
    show_diff,
    write_text,
    written_message,
)
from modelexpress.config.initfile import InitFile, write_init
from modelexpress.config.show import Row, show

__all__ = [
    "InitFile",
    "Migrated",
    "Row",
    "check_format",
    "check_target",
    "generate_default",
    "migrate",
    "show",
    "show_diff",
    "write_init",
    "write_text",
    "written_message",
]
