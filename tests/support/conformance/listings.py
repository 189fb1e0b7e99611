# SPDX-License-Identifier: Apache-2.0
"""What HfApi tells about repositories: descriptions, trees, paths, references, and whether they exist."""

from __future__ import annotations

from tests.support.conformance.registry import Place, case


@case("model")
def info(at: Place) -> object:
    return at.api.model_info(at["model"])


@case("model")
def info_with_file_metadata(at: Place) -> object:
    return at.api.model_info(at["model"], files_metadata=True)


@case("model", "tag", "slashed", "pull")
def info_of_revisions(at: Place) -> object:
    return [at.api.repo_info(at["model"], revision=at[ref]) for ref in ("tag", "slashed", "pull")]


@case("renamed")
def info_of_a_renamed_repository(at: Place) -> object:
    return at.api.model_info(at["renamed"])


@case("bare")
def info_of_a_repository_without_an_owner(at: Place) -> object:
    return at.api.model_info(at["bare"])


@case("model", fails=404)
def info_of_a_missing_revision(at: Place) -> object:
    return at.api.model_info(at["model"], revision="no-such-branch")


@case("missing", fails=401)
def info_of_a_missing_repository(at: Place) -> object:
    return at.api.model_info(at["missing"])


@case("model")
def files_listed(at: Place) -> object:
    return at.api.list_repo_files(at["model"])


@case("model", "tag")
def files_listed_at_a_tag(at: Place) -> object:
    return at.api.list_repo_files(at["model"], revision=at["tag"])


@case("model")
def tree_of_the_root(at: Place) -> object:
    return at.api.list_repo_tree(at["model"])


@case("model")
def tree_recursive(at: Place) -> object:
    return at.api.list_repo_tree(at["model"], recursive=True)


@case("model")
def tree_recursive_and_expanded(at: Place) -> object:
    return at.api.list_repo_tree(at["model"], recursive=True, expand=True)


@case("model", "folder")
def tree_of_a_folder(at: Place) -> object:
    return at.api.list_repo_tree(at["model"], at["folder"], expand=True)


@case("model", "slashed")
def tree_of_a_branch_with_a_slash(at: Place) -> object:
    return at.api.list_repo_tree(at["model"], recursive=True, revision=at["slashed"])


@case("model", fails=404)
def tree_of_a_missing_folder(at: Place) -> object:
    return at.api.list_repo_tree(at["model"], "no/such/folder")


@case("model", "lfs", "odd", "folder")
def paths_looked_up(at: Place) -> object:
    wanted = [at["lfs"], at["odd"], at["folder"], "nothing.bin"]
    return at.api.get_paths_info(at["model"], wanted)


@case("model", "small", "folder", "tag")
def paths_looked_up_and_expanded(at: Place) -> object:
    wanted = [at["small"], at["folder"]]
    return at.api.get_paths_info(at["model"], wanted, expand=True, revision=at["tag"])


@case("model")
def references(at: Place) -> object:
    return at.api.list_repo_refs(at["model"])


@case("model", "pull")
def references_with_pull_requests(at: Place) -> object:
    return at.api.list_repo_refs(at["model"], include_pull_requests=True)


@case("model", "lfs", "odd")
def file_exists(at: Place) -> object:
    wanted = [at["lfs"], at["odd"], "nothing.bin"]
    return [at.api.file_exists(at["model"], file) for file in wanted]


@case("model", "missing", "small")
def file_exists_where_the_rest_does_not(at: Place) -> object:
    in_revision = at.api.file_exists(at["model"], at["small"], revision="no-such-branch")
    return [in_revision, at.api.file_exists(at["missing"], "config.json")]


@case("model", "missing", "tag", "slashed", "pull")
def revision_exists(at: Place) -> object:
    wanted = [at["tag"], at["slashed"], at["pull"], "main", "no-such-branch"]
    found = [at.api.revision_exists(at["model"], revision) for revision in wanted]
    return [*found, at.api.revision_exists(at["missing"], "main")]


@case("model", "missing", "renamed")
def repo_exists(at: Place) -> object:
    return [at.api.repo_exists(at[name]) for name in ("model", "missing", "renamed")]


@case("private", "gated", "member")
def repo_exists_for_some(at: Place) -> object:
    callers = (False, at["member"])
    return [at.api.repo_exists(at[name], token=who) for name in ("private", "gated") for who in callers]


@case("model", "commit_log")
def commits(at: Place) -> object:
    return at.api.list_repo_commits(at["model"])


@case("author", is_passed_through=True)
def models_of_an_author(at: Place) -> object:
    return at.api.list_models(author=at["author"])


@case("model", "fields")
def info_of_chosen_fields(at: Place) -> object:
    return at.api.model_info(at["model"], expand=at["fields"].split())
