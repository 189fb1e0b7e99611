# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face Hub on this machine that the real `huggingface_hub` accepts, with faults on demand."""

from modelexpress.testing.hub.content import HubFile, Repository
from modelexpress.testing.hub.faults import Fault, Faults
from modelexpress.testing.hub.log import Request, RequestLog
from modelexpress.testing.hub.options import HubOptions
from modelexpress.testing.hub.server import LocalHub

__all__ = ["Fault", "Faults", "HubFile", "HubOptions", "LocalHub", "Repository", "Request", "RequestLog"]
