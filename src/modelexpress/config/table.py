# SPDX-License-Identifier: Apache-2.0
"""Every setting there is, as plain data: what flags, file keys, variables and the docs are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["server", "client"]

SERVER: frozenset[Role] = frozenset({"server"})
CLIENT: frozenset[Role] = frozenset({"client"})
BOTH: frozenset[Role] = SERVER | CLIENT

NO_TOKENS = "this version cannot check service account tokens: leave it out, and put a proxy in front"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, by its dotted key. Names in `flags` and `env` stand in order of precedence.

    `aliases` are other keys that a file may use. `fallback_env` ranks below the file, right above the
    default. `is_inverted`: flag and variables say the opposite of the key. `is_switch`: the flag takes no
    value. `not_yet`: why this version
    refuses any value that would change something; `default_text` describes a default that depends on
    the machine, for which `default` is None.
    """

    key: str
    type: str
    default: object
    meaning: str
    flags: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    roles: frozenset[Role] = BOTH
    aliases: tuple[str, ...] = ()
    fallback_env: tuple[str, ...] = ()
    default_text: str | None = None
    is_inverted: bool = False
    is_switch: bool = False
    not_yet: str | None = None

    @property
    def flag(self) -> str | None:
        """The first long flag, as `--port`, or None."""
        return next((flag for flag in self.flags if flag.startswith("--")), None)

    @property
    def short_flag(self) -> str | None:
        """The one-letter flag, as `-p`, or None."""
        return next((flag for flag in self.flags if not flag.startswith("--")), None)


@dataclass(frozen=True, slots=True)
class EnvironmentName:
    """A variable that is recognised without being a setting.

    `idle_for`: the processes that are told at start that it does nothing.
    """

    name: str
    meaning: str
    idle_for: frozenset[Role] = frozenset()


_SERVER_SETTINGS = (
    Setting(
        "server.host", "host name or IP address", "0.0.0.0",
        "Address that the server listens on; IPv6 addresses with or without brackets.",
        flags=("--host",), env=("MODEL_EXPRESS_SERVER_HOST",), roles=SERVER,
    ),
    Setting(
        "server.port", "integer, 0 to 65535", 8001,
        "Port of the gRPC services; 0 takes any free port.",
        flags=("--port", "-p"), env=("MODEL_EXPRESS_SERVER_PORT",), roles=SERVER,
    ),
    Setting(
        "server.data_port", "integer, 0 to 65535", 8002,
        "Port of the data plane, where clients without shared storage read files over HTTP; 0 takes any "
        "free port.",
        flags=("--data-port",), env=("MODEL_EXPRESS_SERVER_DATA_PORT",), roles=SERVER,
    ),
    Setting(
        "server.advertise_url", "URL", None,
        "Where clients reach the data plane, `http://host:port`, if it is not where they reach the gRPC "
        "services, on `server.data_port`.",
        flags=("--advertise-url",), env=("MODEL_EXPRESS_SERVER_ADVERTISE_URL",), roles=SERVER,
        default_text="the host that the client dialled",
    ),
    Setting(
        "server.public_url", "URL", None,
        "Address of the Hub endpoint as its clients have it in `HF_ENDPOINT`, if it is not where they ask, "
        "such as behind a proxy with TLS; it stands in answers that lead on to a next page.",
        env=("MODEL_EXPRESS_SERVER_PUBLIC_URL",), roles=SERVER, default_text="what the client asked",
    ),
    Setting(
        "server.allowed_hosts", "list of host names", (),
        "Names by which the Hub endpoint may be asked; others are refused. Empty: any.",
        env=("MODEL_EXPRESS_SERVER_ALLOWED_HOSTS",), roles=SERVER, default_text="any",
    ),
    Setting(
        "server.metrics_port", "integer, 0 to 65535", 9401,
        "Port of the Prometheus metrics; 0 turns them off.",
        flags=("--metrics-port",), env=("MODEL_EXPRESS_SERVER_METRICS_PORT",), roles=SERVER,
    ),
    Setting(
        "server.drain_seconds", "duration", 30,
        "How long calls in flight may take to finish once the server was told to stop.",
        flags=("--drain-seconds",), env=("MODEL_EXPRESS_SERVER_DRAIN_SECONDS",), roles=SERVER,
    ),
)  # fmt: skip

_CACHE_SETTINGS = (
    Setting(
        "cache.directory", "path", None,
        "Where models are kept, in the standard Hugging Face cache layout.",
        flags=("--cache-directory", "--cache-path"), env=("MODEL_EXPRESS_CACHE_DIRECTORY",),
        aliases=("cache.local_path",), fallback_env=("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"),
        default_text="`~/.cache/huggingface/hub`",
    ),
    Setting(
        "cache.shared_storage", "true or false", True,
        "Whether the server's cache is also mounted here; if not, files are transferred.",
        flags=("--no-shared-storage",), env=("MODEL_EXPRESS_NO_SHARED_STORAGE",), roles=CLIENT,
        is_inverted=True, is_switch=True,
    ),
    Setting(
        "cache.transfer_chunk_size", "integer, bytes, 1 to 4294967295", 1_048_576,
        "Chunk size asked for when files are transferred from the server.",
        flags=("--transfer-chunk-size",), env=("MODEL_EXPRESS_TRANSFER_CHUNK_SIZE",), roles=CLIENT,
    ),
    Setting(
        "cache.timeout_secs", "duration", None,
        "A client key of other versions that nothing reads.",
        roles=CLIENT, not_yet="nothing reads it: use connection.timeout_secs",
    ),
    Setting(
        "cache.max_size_bytes", "bytes, or a size such as 400GB", None,
        "Budget: bytes of the disk that everything in the directory may take, other tools' files included; "
        "a pull that does not fit makes room or is refused before its first byte.",
        flags=("--cache-max-size-bytes",), env=("MODEL_EXPRESS_CACHE_MAX_SIZE_BYTES",), roles=SERVER,
    ),
    Setting(
        "cache.path_lease", "duration", 86_400,
        "How long a model stays after its path was handed out, unless its user lets go of it earlier.",
        env=("MODEL_EXPRESS_CACHE_PATH_LEASE",), roles=SERVER,
    ),
    Setting(
        "cache.eviction.enabled", "true or false", True,
        "Whether models are removed on their own: to make room, and by the rules below.",
        flags=("--cache-eviction-enabled",), env=("MODEL_EXPRESS_CACHE_EVICTION_ENABLED",), roles=SERVER,
    ),
    Setting(
        "cache.eviction.policy.type", "`lru` or `gdsf`", "lru",
        "Which models go first: least recently used, or rarely used and large ones.",
        env=("MODEL_EXPRESS_CACHE_EVICTION_POLICY_TYPE",), roles=SERVER,
    ),
    Setting(
        "cache.eviction.policy.unused_threshold", "duration", 604_800,
        "Models that nobody asked for that long are removed; 0: age removes nothing.",
        env=("MODEL_EXPRESS_CACHE_EVICTION_POLICY_UNUSED_THRESHOLD",), roles=SERVER,
    ),
    Setting(
        "cache.eviction.policy.max_models", "integer", None,
        "Number of models to keep at most, all revisions of one counted once.",
        env=("MODEL_EXPRESS_CACHE_EVICTION_POLICY_MAX_MODELS",), roles=SERVER,
    ),
    Setting(
        "cache.eviction.policy.min_free_space_bytes", "bytes, or a size such as 50GB", None,
        "Space to keep free on the volume, whoever fills it.",
        env=("MODEL_EXPRESS_CACHE_EVICTION_POLICY_MIN_FREE_SPACE_BYTES",), roles=SERVER,
    ),
    Setting(
        "cache.eviction.grace", "duration", 60,
        "How long a model stays after somebody asked for it or read from it.",
        env=("MODEL_EXPRESS_CACHE_EVICTION_GRACE",), roles=SERVER,
    ),
    Setting(
        "cache.eviction.check_interval", "duration", 3600,
        "Time between two looks at the cache.",
        env=("MODEL_EXPRESS_CACHE_EVICTION_CHECK_INTERVAL",), roles=SERVER,
    ),
)  # fmt: skip

_LOGGING_SETTINGS = (
    Setting(
        "logging.level", "`trace`, `debug`, `info`, `warn` or `error`, any case", "info",
        "Least severe message that is logged.",
        flags=("--log-level", "-l"), env=("MODEL_EXPRESS_LOG_LEVEL", "MODEL_EXPRESS_LOGGING_LEVEL"),
    ),
    Setting(
        "logging.format", "`json`, `pretty` or `compact`, any case", "pretty",
        "How a log line looks.",
        flags=("--log-format",), env=("MODEL_EXPRESS_LOG_FORMAT", "MODEL_EXPRESS_LOGGING_FORMAT"),
    ),
    Setting(
        "logging.file", "path", None,
        "File that the log is appended to.",
        env=("MODEL_EXPRESS_LOGGING_FILE",), default_text="none: standard error",
    ),
    Setting(
        "logging.structured", "true or false", False,
        "True means the same as `logging.format: json`.",
        env=("MODEL_EXPRESS_LOGGING_STRUCTURED",),
    ),
    Setting(
        "logging.quiet", "true or false", False,
        "Log errors only, and keep error texts off standard error.",
        flags=("--quiet", "-q"), roles=CLIENT, is_switch=True,
    ),
)  # fmt: skip

_SECURITY_SETTINGS = (
    Setting(
        "security.mode", "`off` or `enforce`", "off",
        "Whether callers must show a service account token; this version refuses to start with `enforce`.",
        flags=("--security-mode",), env=("MODEL_EXPRESS_SECURITY_MODE",), roles=SERVER,
    ),
    Setting(
        "security.token_audiences", "list of strings", (),
        "Audiences that a token may be for.",
        flags=("--security-token-audiences",), env=("MODEL_EXPRESS_SECURITY_TOKEN_AUDIENCES",),
        roles=SERVER, not_yet=NO_TOKENS,
    ),
    Setting(
        "security.allowed_service_accounts", "list of `namespace:name`, or of mappings", (),
        "Service accounts that may call.",
        flags=("--security-allowed-service-accounts",),
        env=("MODEL_EXPRESS_SECURITY_ALLOWED_SERVICE_ACCOUNTS",), roles=SERVER, not_yet=NO_TOKENS,
    ),
    Setting(
        "security.cache_ttl_secs", "duration", 60,
        "How long a checked token is trusted.",
        flags=("--security-cache-ttl-secs",), env=("MODEL_EXPRESS_SECURITY_CACHE_TTL_SECS",),
        roles=SERVER, not_yet=NO_TOKENS,
    ),
)  # fmt: skip

_REGISTRY_SETTINGS = (
    Setting(
        "registry.backend", "`sqlite` or `memory`, any case", "sqlite",
        "Where the registry stands; `memory` forgets at every stop.",
        env=("MX_METADATA_BACKEND",), roles=SERVER,
    ),
    Setting(
        "registry.path", "path", None,
        "The SQLite file, on a local disk.",
        flags=("--database-path", "-d"), env=("MODEL_EXPRESS_DATABASE_PATH",), roles=SERVER,
        aliases=("database.path",), fallback_env=("XDG_STATE_HOME",),
        default_text="`~/.local/state/modelexpress/registry.db`",
    ),
)  # fmt: skip

_ORIGIN_SETTINGS = (
    Setting(
        "origin.endpoint", "http or https URL", "https://huggingface.co",
        "The Hugging Face Hub, or a mirror of it, that models are pulled from.",
        env=("MODEL_EXPRESS_ORIGIN_ENDPOINT",), fallback_env=("HF_ENDPOINT",),
    ),
    Setting(
        "origin.mirrors", "list of http or https URLs", (),
        "Mirrors of it that are asked, without any token, while it does not answer.",
        env=("MODEL_EXPRESS_ORIGIN_MIRRORS",),
    ),
    Setting(
        "origin.offline", "true or false", False,
        "Never ask the origin: only what is here answers.",
        env=("MODEL_EXPRESS_ORIGIN_OFFLINE", "HF_HUB_OFFLINE"),
    ),
    Setting(
        "origin.revalidate", "duration, `always` or `never`", 60,
        "How long an answer for a branch or tag counts before the origin is asked again.",
        env=("MODEL_EXPRESS_ORIGIN_REVALIDATE",),
    ),
    Setting(
        "origin.redirect_hosts", "list of host names", (),
        "Private or loopback hosts that the origin may redirect to, at any port. Its own host "
        "needs no entry, at its own port.",
        env=("MODEL_EXPRESS_ORIGIN_REDIRECT_HOSTS",),
    ),
    Setting(
        "origin.timeout_seconds", "duration", 30,
        "How long the origin may take to begin an answer, and between two reads of a body.",
        env=("MODEL_EXPRESS_ORIGIN_TIMEOUT_SECONDS",),
    ),
    Setting(
        "origin.max_attempts", "integer, 1 to 100", 8,
        "How often a request is tried before its failure is reported; at most 4 times while the origin "
        "was never reached.",
        env=("MODEL_EXPRESS_ORIGIN_MAX_ATTEMPTS",),
    ),
    Setting(
        "origin.max_bytes_per_second", "bytes, or a size such as 100MB", 0,
        "Bound on what this process reads from the origin, all files together; 0: none.",
        env=("MODEL_EXPRESS_ORIGIN_MAX_BYTES_PER_SECOND",),
    ),
)  # fmt: skip

_PULL_SETTINGS = (
    Setting(
        "pull.weights", "`all` or `safetensors-first`", "all",
        "Which weight files a pull takes; `safetensors-first` leaves out the others where a complete "
        "safetensors set is there.",
        env=("MODEL_EXPRESS_PULL_WEIGHTS",),
    ),
    Setting(
        "pull.parallel_files", "integer, 1 to 64", 8,
        "How many files of one pull are fetched at once.",
        env=("MODEL_EXPRESS_PULL_PARALLEL_FILES",),
    ),
    Setting(
        "pull.connections", "integer, 1 to 64", 16,
        "How many ranges are read from the origin at once at most, of all files and pulls together; how many "
        "of them are used is learnt from what the origin gives. Each holds 6 MiB of memory.",
        env=("MODEL_EXPRESS_PULL_CONNECTIONS",),
    ),
    Setting(
        "pull.patterns", "list of mappings: `models`, `include`, `exclude`, `weights`", (),
        "Which files are pulled for models whose name matches the glob `models`; the first match counts.",
    ),
)  # fmt: skip

_HUB_SETTINGS = (
    Setting(
        "hub.prefetch", "true or false", False,
        "Whether fetching one file of a model through the Hub endpoint brings the rest of it too.",
        env=("MODEL_EXPRESS_HUB_PREFETCH",), roles=SERVER,
    ),
    Setting(
        "hub.pass_through", "true or false", False,
        "Whether questions to the Hub's API that this server does not answer are asked at the origin, with "
        "the caller's own token; writing is refused always.",
        env=("MODEL_EXPRESS_HUB_PASS_THROUGH",), roles=SERVER,
    ),
)  # fmt: skip

_OTHER_SETTINGS = (
    Setting(
        "access.server_token", "`serve` or `refuse`", "serve",
        "Whether callers of the gRPC services without a token of their own may pull with the server's.",
        env=("MODEL_EXPRESS_ACCESS_SERVER_TOKEN",), roles=SERVER,
    ),
    Setting(
        "access.open_models", "list of globs", (),
        "Models that everybody may read with the server's own token, gated and private ones too.",
        env=("MODEL_EXPRESS_ACCESS_OPEN_MODELS",), roles=SERVER,
    ),
    Setting(
        "access.service_token_file", "path", None,
        "File with a token of your own making, of at least 16 characters: who shows it as a Hub token may "
        "read `access.service_models` with the server's. It is read at start and never leaves this server.",
        env=("MODEL_EXPRESS_ACCESS_SERVICE_TOKEN_FILE",), roles=SERVER,
    ),
    Setting(
        "access.service_models", "list of globs", ("*",),
        "Models that may be read with the service token.",
        env=("MODEL_EXPRESS_ACCESS_SERVICE_MODELS",), roles=SERVER,
    ),
    Setting(
        "access.granted_ttl", "duration", 300,
        "How long the origin's permission for a token counts before it is asked again.",
        env=("MODEL_EXPRESS_ACCESS_GRANTED_TTL",), roles=SERVER,
    ),
    Setting(
        "access.denied_ttl", "duration", 30,
        "How long its refusal counts.",
        env=("MODEL_EXPRESS_ACCESS_DENIED_TTL",), roles=SERVER,
    ),
    Setting(
        "access.outage_ttl", "duration", 86_400,
        "How long its last permission counts while the origin does not answer.",
        env=("MODEL_EXPRESS_ACCESS_OUTAGE_TTL",), roles=SERVER,
    ),
    Setting(
        "connection.endpoint", "http URL or host:port", "http://localhost:8001",
        "Address of the server's gRPC services.",
        flags=("--endpoint", "-e"), roles=CLIENT, aliases=("cache.server_endpoint",),
        env=(
            "MODEL_EXPRESS_ENDPOINT", "MODEL_EXPRESS_URL", "MX_SERVER_ADDRESS",
            "MODEL_EXPRESS_SERVER_ENDPOINT",
        ),
    ),
    Setting(
        "connection.timeout_seconds", "duration", 30,
        "How long the server may take to begin an answer.",
        flags=("--timeout", "-t"), env=("MODEL_EXPRESS_TIMEOUT",), roles=CLIENT,
        aliases=("connection.timeout_secs",),
    ),
    Setting(
        "connection.send_hub_token", "true or false", True,
        "Whether the server gets the user's Hub token for a model that it cannot read without one.",
        env=("MODEL_EXPRESS_SEND_HUB_TOKEN",), roles=CLIENT,
    ),
)  # fmt: skip

SETTINGS: tuple[Setting, ...] = (
    *_SERVER_SETTINGS,
    *_CACHE_SETTINGS,
    *_LOGGING_SETTINGS,
    *_SECURITY_SETTINGS,
    *_REGISTRY_SETTINGS,
    *_ORIGIN_SETTINGS,
    *_PULL_SETTINGS,
    *_HUB_SETTINGS,
    *_OTHER_SETTINGS,
)

OTHER_ENVIRONMENT: tuple[EnvironmentName, ...] = (
    EnvironmentName("HOME", "the home directory, for `~` and for defaults"),
    EnvironmentName("USERPROFILE", "the home directory where `HOME` is not set; else the account's own"),
    EnvironmentName("XDG_CACHE_HOME", "parent of the `huggingface` directory where `HF_HOME` is not set"),
    EnvironmentName("HF_TOKEN", "token for the Hub"),
    EnvironmentName("HUGGING_FACE_HUB_TOKEN", "the same, where `HF_TOKEN` is not set"),
    EnvironmentName("HF_TOKEN_PATH", "file that holds the token, where no variable does"),
    EnvironmentName("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1, on, yes or true: no token is read from a file"),
    EnvironmentName("HTTP_PROXY", "proxy for http origins; the lower-case name, where set, wins"),
    EnvironmentName("HTTPS_PROXY", "proxy for https origins; lower case wins"),
    EnvironmentName("ALL_PROXY", "proxy for origins that neither of the two is for; lower case wins"),
    EnvironmentName("NO_PROXY", "hosts that are reached without a proxy; lower case wins"),
    EnvironmentName("REQUESTS_CA_BUNDLE", "certificate authorities to trust, as a PEM file or a directory"),
    EnvironmentName("CURL_CA_BUNDLE", "the same, where `REQUESTS_CA_BUNDLE` is not set"),
    EnvironmentName("SSL_CERT_FILE", "the same, where neither of the two is set"),
    EnvironmentName("SSL_CERT_DIR", "directory of certificate authorities, where none of the three is set"),
    EnvironmentName(
        "MX_AUTH_TOKEN_PATH",
        "file whose content a client sends as its bearer token; `/var/run/secrets/tokens/modelexpress`",
    ),
    EnvironmentName("MX_AUTH_TOKEN_TTL_SECONDS", "age at which a client looks at that file again; 60"),
    EnvironmentName("MX_METRICS_SCHEME", "the label `scheme` of `mx_build_info`"),
    EnvironmentName("POD_NAME", "what this machine is called in the registry; else its host name"),
    EnvironmentName("REDIS_URL", "address of a Redis registry; does nothing in this version", SERVER),
    EnvironmentName("MX_REDIS_HOST", "the same; does nothing in this version", SERVER),
    EnvironmentName("MX_REDIS_PORT", "the same; does nothing in this version", SERVER),
    EnvironmentName(
        "MX_METADATA_NAMESPACE", "namespace of a Kubernetes registry; does nothing in this version", SERVER
    ),
    EnvironmentName(
        "MX_REAPER_SCAN_INTERVAL_SECS", "of peer-to-peer transfer; does nothing in this version", SERVER
    ),
    EnvironmentName(
        "MX_HEARTBEAT_TIMEOUT_SECS", "of peer-to-peer transfer; does nothing in this version", SERVER
    ),
    EnvironmentName("MX_GC_TIMEOUT_SECS", "of peer-to-peer transfer; does nothing in this version", SERVER),
    EnvironmentName("MODEL_EXPRESS_S3_TIMEOUT_SECS", "time limit of S3; does nothing in this version", BOTH),
    EnvironmentName("MODEL_EXPRESS_MAX_RETRIES", "of other versions; does nothing in this one", BOTH),
    EnvironmentName("MODEL_EXPRESS_RETRY_DELAY", "of other versions; does nothing in this one", BOTH),
    EnvironmentName("MODEL_EXPRESS_ENVIRONMENT", "a placeholder in deployment files; does nothing", BOTH),
    EnvironmentName("MODEL_EXPRESS_DEBUG", "a placeholder in deployment files; does nothing", BOTH),
    EnvironmentName("MODEL_EXPRESS_MAX_CONCURRENT_REQUESTS", "a placeholder; does nothing", BOTH),
)


def get_setting(key: str) -> Setting:
    """The setting with this key; KeyError when there is none."""
    for setting in SETTINGS:
        if setting.key == key:
            return setting
    raise KeyError(key)


def settings_for(role: Role) -> tuple[Setting, ...]:
    """The settings that a process of this role reads."""
    return tuple(setting for setting in SETTINGS if role in setting.roles)


def known_environment() -> frozenset[str]:
    """Every variable name that is recognised."""
    named = {name for setting in SETTINGS for name in (*setting.env, *setting.fallback_env)}
    return frozenset(named | {other.name for other in OTHER_ENVIRONMENT})
