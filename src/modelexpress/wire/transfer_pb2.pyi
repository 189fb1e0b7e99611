from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Model(_message.Message):
    __slots__ = ("provider", "name", "revision")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    provider: str
    name: str
    revision: str
    def __init__(self, provider: _Optional[str] = ..., name: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class Selection(_message.Message):
    __slots__ = ("weights", "include", "exclude")
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    weights: str
    include: _containers.RepeatedScalarFieldContainer[str]
    exclude: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, weights: _Optional[str] = ..., include: _Optional[_Iterable[str]] = ..., exclude: _Optional[_Iterable[str]] = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("model", "selection")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    model: Model
    selection: Selection
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., selection: _Optional[_Union[Selection, _Mapping]] = ...) -> None: ...

class PullUpdate(_message.Message):
    __slots__ = ("progress", "pulled", "listed")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PULLED_FIELD_NUMBER: _ClassVar[int]
    LISTED_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    pulled: Pulled
    listed: Listed
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., pulled: _Optional[_Union[Pulled, _Mapping]] = ..., listed: _Optional[_Union[Listed, _Mapping]] = ...) -> None: ...

class Listed(_message.Message):
    __slots__ = ("commit", "selection", "volume", "path")
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    commit: str
    selection: Selection
    volume: str
    path: str
    def __init__(self, commit: _Optional[str] = ..., selection: _Optional[_Union[Selection, _Mapping]] = ..., volume: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("phase", "bytes_done", "bytes_total", "files_done", "files_total", "bytes_per_second")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    FILES_DONE_FIELD_NUMBER: _ClassVar[int]
    FILES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    phase: str
    bytes_done: int
    bytes_total: int
    files_done: int
    files_total: int
    bytes_per_second: float
    def __init__(self, phase: _Optional[str] = ..., bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., files_done: _Optional[int] = ..., files_total: _Optional[int] = ..., bytes_per_second: _Optional[float] = ...) -> None: ...

class Pulled(_message.Message):
    __slots__ = ("commit", "path", "volume", "proof", "was_hit", "is_stale", "missing", "bytes_fetched", "selection")
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    WAS_HIT_FIELD_NUMBER: _ClassVar[int]
    IS_STALE_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    BYTES_FETCHED_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    commit: str
    path: str
    volume: str
    proof: str
    was_hit: bool
    is_stale: bool
    missing: _containers.RepeatedScalarFieldContainer[str]
    bytes_fetched: int
    selection: Selection
    def __init__(self, commit: _Optional[str] = ..., path: _Optional[str] = ..., volume: _Optional[str] = ..., proof: _Optional[str] = ..., was_hit: bool = ..., is_stale: bool = ..., missing: _Optional[_Iterable[str]] = ..., bytes_fetched: _Optional[int] = ..., selection: _Optional[_Union[Selection, _Mapping]] = ...) -> None: ...

class ManifestRequest(_message.Message):
    __slots__ = ("model", "selection", "after")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    model: Model
    selection: Selection
    after: str
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., selection: _Optional[_Union[Selection, _Mapping]] = ..., after: _Optional[str] = ...) -> None: ...

class ManifestPage(_message.Message):
    __slots__ = ("commit", "files", "next", "data")
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    commit: str
    files: _containers.RepeatedCompositeFieldContainer[ManifestFile]
    next: str
    data: DataPlane
    def __init__(self, commit: _Optional[str] = ..., files: _Optional[_Iterable[_Union[ManifestFile, _Mapping]]] = ..., next: _Optional[str] = ..., data: _Optional[_Union[DataPlane, _Mapping]] = ...) -> None: ...

class DataPlane(_message.Message):
    __slots__ = ("host", "port")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: int
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class FileProof(_message.Message):
    __slots__ = ("path", "size", "root")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    path: str
    size: int
    root: str
    def __init__(self, path: _Optional[str] = ..., size: _Optional[int] = ..., root: _Optional[str] = ...) -> None: ...

class ManifestFile(_message.Message):
    __slots__ = ("path", "size", "digest", "blob_id", "xet_hash", "ticket")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BLOB_ID_FIELD_NUMBER: _ClassVar[int]
    XET_HASH_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    path: str
    size: int
    digest: str
    blob_id: str
    xet_hash: str
    ticket: str
    def __init__(self, path: _Optional[str] = ..., size: _Optional[int] = ..., digest: _Optional[str] = ..., blob_id: _Optional[str] = ..., xet_hash: _Optional[str] = ..., ticket: _Optional[str] = ...) -> None: ...

class KeepPathRequest(_message.Message):
    __slots__ = ("model", "holder", "seconds")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    model: Model
    holder: str
    seconds: int
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., holder: _Optional[str] = ..., seconds: _Optional[int] = ...) -> None: ...

class KeepPathAnswer(_message.Message):
    __slots__ = ("seconds",)
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    def __init__(self, seconds: _Optional[float] = ...) -> None: ...
