# SPDX-License-Identifier: Apache-2.0
"""What the services need of a cache."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from modelexpress.cache.hub_documents import Answered, Question
from modelexpress.cache.hub_files import HubFile
from modelexpress.domain.caller import Caller
from modelexpress.domain.control import CacheControl
from modelexpress.domain.held import HeldFiles, ProvenFile, Pulled
from modelexpress.domain.hub import Document
from modelexpress.domain.manifest import Manifest
from modelexpress.domain.progress import Progress
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import Selection
from modelexpress.store.offers import Offers


class RunningPull(Protocol):
    """One caller's view of a pull, running or ended."""

    @property
    def commit(self) -> str:
        """What the ref was resolved to."""
        ...

    @property
    def selection(self) -> Selection:
        """The selection, with the settings filled in."""
        ...

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        ...

    @property
    def is_done(self) -> bool:
        """True when `result` will not wait."""
        ...

    async def wait_listed(self) -> bool:
        """Wait until the files can be read while they arrive; False when the pull has ended before."""
        ...

    def updates(self, interval_seconds: float) -> AsyncIterator[Progress]:
        """The latest progress, at once and then every interval; ends with the pull."""
        ...

    async def result(self) -> Pulled:
        """The end of the pull, or its error."""
        ...


class ServedHubFiles(Protocol):
    """Finds and opens files for clients of a Hub."""

    async def find(self, ref: ModelRef, path: str, caller: Caller) -> HubFile | Document:
        """The file, or a refusal in the Hub's words."""
        ...

    async def open(
        self,
        ref: ModelRef,
        path: str,
        caller: Caller,
        found: HubFile | Document | None = None,
        is_own: bool = False,
    ) -> HubFile | Document:
        """The same, with its bytes: here, or arriving. `found`: what `find` has just said of it.

        `is_own`: whoever brings the file already, it is fetched with this caller's rights.
        """
        ...


class ServedHubDocuments(Protocol):
    """Answers questions to a Hub's API."""

    async def get(self, question: Question, caller: Caller) -> Answered:
        """The answer, or a refusal in the Hub's words."""
        ...


class ServedCache(CacheControl, Protocol):
    """A cache that is served."""

    root: Path
    volume: str

    @property
    def hub_files(self) -> ServedHubFiles:
        """Files for clients of a Hub."""
        ...

    @property
    def hub_documents(self) -> ServedHubDocuments:
        """What a Hub says to its clients."""
        ...

    @property
    def offers(self) -> Offers:
        """What readers may have now or soon."""
        ...

    async def begin(self, ref: ModelRef, selection: Selection | None, caller: Caller) -> RunningPull:
        """Allow, resolve, and join or start the pull."""
        ...

    async def held_files(self, ref: ModelRef, selection: Selection, caller: Caller) -> HeldFiles:
        """The proven files that are here; NotFound when there are none of that revision."""
        ...

    def opened_files(
        self, ref: ModelRef, selection: Selection, caller: Caller
    ) -> AbstractAsyncContextManager[HeldFiles]:
        """The same, readable to the end of the body, whatever is removed."""
        ...

    def using(self, ref: ModelRef, what: str) -> AbstractAsyncContextManager[object]:
        """Nothing evicts the model while the body runs."""
        ...

    async def give_path(self, ref: ModelRef, commit: str, holder: str, seconds: float | None = None) -> float:
        """`holder` reads a commit where it stands: it stays for `seconds`, at most as the settings say.

        The seconds that it stays; None: as the settings say, 0: he has let go of it.
        """
        ...

    async def held_manifest(self, ref: ModelRef, selection: Selection | None, caller: Caller) -> Manifest:
        """The files of a complete selection; None: the whole listing."""
        ...

    async def offered_manifest(self, ref: ModelRef, selection: Selection, caller: Caller) -> Manifest:
        """The files of a selection that is complete or on its way, each on offer to readers; pinned `ref`."""
        ...

    def watch_proofs(self, manifest: Manifest) -> AsyncIterator[ProvenFile]:
        """Each file of an offered manifest once it is proven."""
        ...

    def snapshot_path(self, ref: ModelRef, commit: str) -> Path:
        """The directory where a commit's files stand, or will."""
        ...

    async def wait_lost(self) -> None:
        """Return when others take this process for dead, so that it must stop."""
        ...

    async def interrupt(self) -> None:
        """Stop the running pulls; whoever waits for one hears why."""
        ...

    async def check(self) -> None:
        """Raise the reason why the cache cannot do its work, if there is one."""
        ...
