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
    __slots__ = ("provider", "name", "commit", "refs", "selections", "files", "bytes", "bytes_ours", "path", "last_used_at", "is_recorded", "is_adopted", "bytes_added", "bytes_on_disk", "bytes_shared", "pins", "readers", "bytes_on_disk_added")
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
    BYTES_ON_DISK_FIELD_NUMBER: _ClassVar[int]
    BYTES_SHARED_FIELD_NUMBER: _ClassVar[int]
    PINS_FIELD_NUMBER: _ClassVar[int]
    READERS_FIELD_NUMBER: _ClassVar[int]
    BYTES_ON_DISK_ADDED_FIELD_NUMBER: _ClassVar[int]
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
    bytes_on_disk: int
    bytes_shared: int
    pins: _containers.RepeatedScalarFieldContainer[str]
    readers: int
    bytes_on_disk_added: int
    def __init__(self, provider: _Optional[str] = ..., name: _Optional[str] = ..., commit: _Optional[str] = ..., refs: _Optional[_Iterable[str]] = ..., selections: _Optional[_Iterable[str]] = ..., files: _Optional[int] = ..., bytes: _Optional[int] = ..., bytes_ours: _Optional[int] = ..., path: _Optional[str] = ..., last_used_at: _Optional[float] = ..., is_recorded: bool = ..., is_adopted: bool = ..., bytes_added: _Optional[int] = ..., bytes_on_disk: _Optional[int] = ..., bytes_shared: _Optional[int] = ..., pins: _Optional[_Iterable[str]] = ..., readers: _Optional[int] = ..., bytes_on_disk_added: _Optional[int] = ...) -> None: ...

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

class PlanRequest(_message.Message):
    __slots__ = ("wanted",)
    WANTED_FIELD_NUMBER: _ClassVar[int]
    wanted: int
    def __init__(self, wanted: _Optional[int] = ...) -> None: ...

class EvictRequest(_message.Message):
    __slots__ = ("models", "wanted", "is_dry_run", "is_forced")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    IS_DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    IS_FORCED_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[_transfer_pb2.Model]
    wanted: int
    is_dry_run: bool
    is_forced: bool
    def __init__(self, models: _Optional[_Iterable[_Union[_transfer_pb2.Model, _Mapping]]] = ..., wanted: _Optional[int] = ..., is_dry_run: bool = ..., is_forced: bool = ...) -> None: ...

class VolumeUse(_message.Message):
    __slots__ = ("used", "removable", "arriving", "leftovers", "free", "kept_free", "promised", "room", "budget")
    USED_FIELD_NUMBER: _ClassVar[int]
    REMOVABLE_FIELD_NUMBER: _ClassVar[int]
    ARRIVING_FIELD_NUMBER: _ClassVar[int]
    LEFTOVERS_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    KEPT_FREE_FIELD_NUMBER: _ClassVar[int]
    PROMISED_FIELD_NUMBER: _ClassVar[int]
    ROOM_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    used: int
    removable: int
    arriving: int
    leftovers: int
    free: int
    kept_free: int
    promised: int
    room: int
    budget: int
    def __init__(self, used: _Optional[int] = ..., removable: _Optional[int] = ..., arriving: _Optional[int] = ..., leftovers: _Optional[int] = ..., free: _Optional[int] = ..., kept_free: _Optional[int] = ..., promised: _Optional[int] = ..., room: _Optional[int] = ..., budget: _Optional[int] = ...) -> None: ...

class Kept(_message.Message):
    __slots__ = ("provider", "name", "commit", "bytes", "reason")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    provider: str
    name: str
    commit: str
    bytes: int
    reason: str
    def __init__(self, provider: _Optional[str] = ..., name: _Optional[str] = ..., commit: _Optional[str] = ..., bytes: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class EvictionPlan(_message.Message):
    __slots__ = ("use", "removal", "kept", "missing")
    USE_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    use: VolumeUse
    removal: RemovalPlan
    kept: _containers.RepeatedCompositeFieldContainer[Kept]
    missing: int
    def __init__(self, use: _Optional[_Union[VolumeUse, _Mapping]] = ..., removal: _Optional[_Union[RemovalPlan, _Mapping]] = ..., kept: _Optional[_Iterable[_Union[Kept, _Mapping]]] = ..., missing: _Optional[int] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: _transfer_pb2.Model
    def __init__(self, model: _Optional[_Union[_transfer_pb2.Model, _Mapping]] = ...) -> None: ...

class Explained(_message.Message):
    __slots__ = ("held", "bytes_alone", "rank", "fate", "pins", "readers", "leases")
    HELD_FIELD_NUMBER: _ClassVar[int]
    BYTES_ALONE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    FATE_FIELD_NUMBER: _ClassVar[int]
    PINS_FIELD_NUMBER: _ClassVar[int]
    READERS_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    held: HeldSnapshot
    bytes_alone: int
    rank: int
    fate: str
    pins: _containers.RepeatedCompositeFieldContainer[PinnedPattern]
    readers: _containers.RepeatedScalarFieldContainer[str]
    leases: _containers.RepeatedCompositeFieldContainer[PathLease]
    def __init__(self, held: _Optional[_Union[HeldSnapshot, _Mapping]] = ..., bytes_alone: _Optional[int] = ..., rank: _Optional[int] = ..., fate: _Optional[str] = ..., pins: _Optional[_Iterable[_Union[PinnedPattern, _Mapping]]] = ..., readers: _Optional[_Iterable[str]] = ..., leases: _Optional[_Iterable[_Union[PathLease, _Mapping]]] = ...) -> None: ...

class PathLease(_message.Message):
    __slots__ = ("holder", "until")
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    holder: str
    until: float
    def __init__(self, holder: _Optional[str] = ..., until: _Optional[float] = ...) -> None: ...

class ListPinsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PinnedPattern(_message.Message):
    __slots__ = ("pattern", "created_at", "until")
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    created_at: float
    until: float
    def __init__(self, pattern: _Optional[str] = ..., created_at: _Optional[float] = ..., until: _Optional[float] = ...) -> None: ...

class Pins(_message.Message):
    __slots__ = ("pins",)
    PINS_FIELD_NUMBER: _ClassVar[int]
    pins: _containers.RepeatedCompositeFieldContainer[PinnedPattern]
    def __init__(self, pins: _Optional[_Iterable[_Union[PinnedPattern, _Mapping]]] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("pattern", "until", "is_dry_run")
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    IS_DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    until: float
    is_dry_run: bool
    def __init__(self, pattern: _Optional[str] = ..., until: _Optional[float] = ..., is_dry_run: bool = ...) -> None: ...

class UnpinRequest(_message.Message):
    __slots__ = ("patterns", "is_dry_run")
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    IS_DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    patterns: _containers.RepeatedScalarFieldContainer[str]
    is_dry_run: bool
    def __init__(self, patterns: _Optional[_Iterable[str]] = ..., is_dry_run: bool = ...) -> None: ...
