from modelexpress.wire import transfer_pb2 as _transfer_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListHeldRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HeldSnapshot(_message.Message):
    __slots__ = ("provider", "name", "commit", "refs", "selections", "files", "bytes", "bytes_ours", "path", "last_used_at", "is_recorded", "is_adopted", "bytes_added")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    REFS_FIELD_NUMBER: _ClassVar[int]
    SELECTIONS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_OURS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_AT_FIELD_NUMBER: _ClassVar[int]
    IS_RECORDED_FIELD_NUMBER: _ClassVar[int]
    IS_ADOPTED_FIELD_NUMBER: _ClassVar[int]
    BYTES_ADDED_FIELD_NUMBER: _ClassVar[int]
    provider: str
    name: str
    commit: str
    refs: _containers.RepeatedScalarFieldContainer[str]
    selections: _containers.RepeatedScalarFieldContainer[str]
    files: int
    bytes: int
    bytes_ours: int
    path: str
    last_used_at: float
    is_recorded: bool
    is_adopted: bool
    bytes_added: int
    def __init__(self, provider: _Optional[str] = ..., name: _Optional[str] = ..., commit: _Optional[str] = ..., refs: _Optional[_Iterable[str]] = ..., selections: _Optional[_Iterable[str]] = ..., files: _Optional[int] = ..., bytes: _Optional[int] = ..., bytes_ours: _Optional[int] = ..., path: _Optional[str] = ..., last_used_at: _Optional[float] = ..., is_recorded: bool = ..., is_adopted: bool = ..., bytes_added: _Optional[int] = ...) -> None: ...

class RemoveRequest(_message.Message):
    __slots__ = ("models", "is_dry_run")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    IS_DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[_transfer_pb2.Model]
    is_dry_run: bool
    def __init__(self, models: _Optional[_Iterable[_Union[_transfer_pb2.Model, _Mapping]]] = ..., is_dry_run: bool = ...) -> None: ...

class PruneRequest(_message.Message):
    __slots__ = ("is_dry_run",)
    IS_DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    is_dry_run: bool
    def __init__(self, is_dry_run: bool = ...) -> None: ...

class Removal(_message.Message):
    __slots__ = ("provider", "name", "commit", "bytes_freed", "files_removed", "files_kept", "reason")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FREED_FIELD_NUMBER: _ClassVar[int]
    FILES_REMOVED_FIELD_NUMBER: _ClassVar[int]
    FILES_KEPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    provider: str
    name: str
    commit: str
    bytes_freed: int
    files_removed: int
    files_kept: int
    reason: str
    def __init__(self, provider: _Optional[str] = ..., name: _Optional[str] = ..., commit: _Optional[str] = ..., bytes_freed: _Optional[int] = ..., files_removed: _Optional[int] = ..., files_kept: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class RemovalPlan(_message.Message):
    __slots__ = ("removals", "leftovers", "leftover_bytes", "notes")
    REMOVALS_FIELD_NUMBER: _ClassVar[int]
    LEFTOVERS_FIELD_NUMBER: _ClassVar[int]
    LEFTOVER_BYTES_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    removals: _containers.RepeatedCompositeFieldContainer[Removal]
    leftovers: int
    leftover_bytes: int
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, removals: _Optional[_Iterable[_Union[Removal, _Mapping]]] = ..., leftovers: _Optional[int] = ..., leftover_bytes: _Optional[int] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("model", "is_repair")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IS_REPAIR_FIELD_NUMBER: _ClassVar[int]
    model: _transfer_pb2.Model
    is_repair: bool
    def __init__(self, model: _Optional[_Union[_transfer_pb2.Model, _Mapping]] = ..., is_repair: bool = ...) -> None: ...

class VerifyUpdate(_message.Message):
    __slots__ = ("progress", "verified")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    progress: _transfer_pb2.Progress
    verified: Verified
    def __init__(self, progress: _Optional[_Union[_transfer_pb2.Progress, _Mapping]] = ..., verified: _Optional[_Union[Verified, _Mapping]] = ...) -> None: ...

class Verified(_message.Message):
    __slots__ = ("provider", "name", "commit", "files", "bytes", "unproven", "damages", "flaws", "bytes_fetched")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    UNPROVEN_FIELD_NUMBER: _ClassVar[int]
    DAMAGES_FIELD_NUMBER: _ClassVar[int]
    FLAWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FETCHED_FIELD_NUMBER: _ClassVar[int]
    provider: str
    name: str
    commit: str
    files: int
    bytes: int
    unproven: int
    damages: _containers.RepeatedCompositeFieldContainer[Damage]
    flaws: _containers.RepeatedCompositeFieldContainer[Flaw]
    bytes_fetched: int
    def __init__(self, provider: _Optional[str] = ..., name: _Optional[str] = ..., commit: _Optional[str] = ..., files: _Optional[int] = ..., bytes: _Optional[int] = ..., unproven: _Optional[int] = ..., damages: _Optional[_Iterable[_Union[Damage, _Mapping]]] = ..., flaws: _Optional[_Iterable[_Union[Flaw, _Mapping]]] = ..., bytes_fetched: _Optional[int] = ...) -> None: ...

class Damage(_message.Message):
    __slots__ = ("path", "problem", "is_repaired", "obstacle")
    PATH_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    IS_REPAIRED_FIELD_NUMBER: _ClassVar[int]
    OBSTACLE_FIELD_NUMBER: _ClassVar[int]
    path: str
    problem: str
    is_repaired: bool
    obstacle: str
    def __init__(self, path: _Optional[str] = ..., problem: _Optional[str] = ..., is_repaired: bool = ..., obstacle: _Optional[str] = ...) -> None: ...

class Flaw(_message.Message):
    __slots__ = ("path", "problem")
    PATH_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    path: str
    problem: str
    def __init__(self, path: _Optional[str] = ..., problem: _Optional[str] = ...) -> None: ...

class AdoptRequest(_message.Message):
    __slots__ = ("model", "is_dry_run")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IS_DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    model: _transfer_pb2.Model
    is_dry_run: bool
    def __init__(self, model: _Optional[_Union[_transfer_pb2.Model, _Mapping]] = ..., is_dry_run: bool = ...) -> None: ...
