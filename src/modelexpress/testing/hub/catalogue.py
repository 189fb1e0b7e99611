# SPDX-License-Identifier: Apache-2.0
"""Which repositories a hub has, under which names, and who may see them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from modelexpress.testing.hub.content import Repository


class Catalogue:
    """The repositories of one hub by name, the names they once had, and the known tokens."""

    def __init__(self, repositories: Iterable[Repository]) -> None:
        self.repositories = {repository.name: repository for repository in repositories}
        self.renamed: dict[str, str] = {}
        self._grants: dict[str, set[str]] = {}

    def add(self, repository: Repository) -> None:
        """Publish a repository."""
        self.repositories[repository.name] = repository
        self.renamed.pop(repository.name, None)

    def rename(self, old: str, new: str) -> None:
        """Give a repository another name; who had access keeps it."""
        repository = self.repositories.pop(old)
        repository.name = new
        self.add(repository)
        self.renamed[old] = new
        for names in self._grants.values():
            if old in names:
                names.add(new)

    def grant(self, token: str, names: Iterable[str]) -> None:
        """Make `token` a known one, with access to private and gated repositories `names`."""
        self._grants.setdefault(token, set()).update(names)

    def revoke(self, token: str) -> None:
        """Forget a token."""
        self._grants.pop(token, None)

    def is_known(self, token: str | None) -> bool:
        """Whether `token` is anybody's."""
        return token in self._grants

    def has_access(self, token: str | None, name: str) -> bool:
        """Whether `token` opens the repository `name`."""
        return token is not None and name in self._grants.get(token, ())

    def visible(self, kind: str, token: str | None) -> list[Repository]:
        """The repositories of a kind that `token` may know of, in the order of their names."""
        return [
            self.repositories[name]
            for name in sorted(self.repositories)
            if self.repositories[name].kind == kind
            and (not self.repositories[name].is_private or self.has_access(token, name))
        ]
