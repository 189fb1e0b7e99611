# SPDX-License-Identifier: Apache-2.0
"""Which source counts, what each setting accepts, and what a default is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.config.desk import Desk

from modelexpress.config.settings import value_of
from modelexpress.config.table import SETTINGS


def test_without_any_source_every_setting_has_its_default(desk: Desk) -> None:
    loaded = desk.load("server")
    for setting in SETTINGS:
        if setting.default_text is None:
            assert value_of(loaded.settings, setting.key) == setting.default
        assert str(loaded.origins[setting.key]) == "default"
    assert loaded.file is None
    assert loaded.warnings == ()


def test_a_flag_ranks_above_a_variable_above_the_file_above_the_default(desk: Desk) -> None:
    path = desk.write("server:\n  host: file\n  port: 1\n  metrics_port: 2\n")
    env = {"MODEL_EXPRESS_SERVER_PORT": "3", "MODEL_EXPRESS_SERVER_METRICS_PORT": "4"}
    loaded = desk.load("server", {"server.metrics_port": 5, "server.host": None}, env)
    server = loaded.settings.server
    assert (server.host, server.port, server.metrics_port, server.drain_seconds) == ("file", 3, 5, 30)
    assert loaded.file == path
    origins = {key: str(origin) for key, origin in loaded.origins.items() if key.startswith("server.")}
    assert origins == {
        "server.host": "file modelexpress.yaml:2",
        "server.port": "env MODEL_EXPRESS_SERVER_PORT",
        "server.data_port": "default",
        "server.advertise_url": "default",
        "server.public_url": "default",
        "server.allowed_hosts": "default",
        "server.metrics_port": "flag --metrics-port",
        "server.drain_seconds": "default",
    }


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.env], ids=lambda s: s.key)
def test_every_variable_of_the_table_reaches_its_setting(desk: Desk, setting) -> None:
    for name in set(setting.env) - {"HF_HUB_OFFLINE"}:
        role = "server" if "server" in setting.roles else "client"
        message = desk.refusal(role, env={name: "\x01"}) if setting.type != "path" else None
        if message is None:
            origin = desk.load(role, env={name: "/some/where"}).origins[setting.key]
            assert str(origin) == f"env {name}"
        else:
            assert message.startswith(f"env {name}: "), message


def test_an_empty_variable_counts_as_unset(desk: Desk) -> None:
    env = {name: " " for setting in SETTINGS for name in (*setting.env, *setting.fallback_env)}
    loaded = desk.load("client", env=env)
    assert all(origin.is_default for origin in loaded.origins.values())


def test_variables_of_the_other_role_are_left_alone(desk: Desk) -> None:
    desk.load("server", env={"MODEL_EXPRESS_ENDPOINT": "https://x", "MODEL_EXPRESS_NO_SHARED_STORAGE": "?"})
    desk.load("client", env={"MODEL_EXPRESS_SERVER_PORT": "?", "MX_METADATA_BACKEND": "redis"})


def test_a_part_of_a_file_is_enough(desk: Desk) -> None:
    desk.write("logging:\n  level: DEBUG\n")
    settings = desk.load("server").settings
    assert (settings.logging.level, settings.server.port) == ("debug", 8001)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "---\n", "server:\n", "server: {}\n", "server:\n  port: null\n"]
)
def test_a_file_that_sets_nothing_is_fine(desk: Desk, text: str) -> None:
    desk.write(text)
    assert desk.load("server").settings.server.port == 8001


def test_one_file_serves_server_and_client(desk: Desk) -> None:
    desk.write(
        "server: {host: 0.0.0.0, port: 8001}\n"
        "cache: {directory: /models, shared_storage: false}\n"
        "connection: {endpoint: 'models:8001', timeout_secs: 5}\n"
        "logging: {level: Info, quiet: true}\n"
        "security: {mode: off}\n"
    )
    server, client = desk.load("server").settings, desk.load("client").settings
    assert server.cache.directory == client.cache.directory == Path("/models")
    assert (client.connection.endpoint, client.connection.timeout_seconds) == ("http://models:8001", 5)
    assert not client.cache.shared_storage


def test_what_the_server_would_refuse_does_not_stop_a_client_with_the_same_file(desk: Desk) -> None:
    desk.write("security: {mode: enforce, cache_ttl_secs: 61}\ncache: {eviction: {enabled: true}}\n")
    assert desk.load("client").settings.connection.timeout_seconds == 30
    assert desk.refusal("server").startswith("2 problems")


def test_the_file_of_another_version_at_its_defaults_can_be_taken_as_it_is(desk: Desk) -> None:
    text = (
        "server:\n  host: 0.0.0.0\n  port: 8001\n  metrics_port: 9401\n"
        "cache:\n  directory: ./cache\n  max_size_bytes: null\n  eviction:\n    enabled: true\n"
        "    policy:\n      type: lru\n      unused_threshold: 604800\n      max_models: null\n"
        "      min_free_space_bytes: null\n    check_interval: 3600\n"
        "logging:\n  level: Info\n  format: Pretty\n  file: null\n  structured: false\n"
        "security:\n  mode: off\n  token_audiences: []\n  allowed_service_accounts: []\n"
        "  cache_ttl_secs: 60\n"
    )
    desk.write(text)
    cache = desk.load().settings.cache
    assert (cache.directory, cache.eviction.policy.unused_threshold) == (desk.cwd / "cache", 604_800)


def test_files_are_searched_in_order_and_a_second_one_beside_it_is_a_warning(desk: Desk) -> None:
    names = ["config.yml", "config.yaml", "model-express.yml", "model-express.yaml", "modelexpress.yml",
             "modelexpress.yaml"]  # fmt: skip
    for port, name in enumerate(names, start=1):
        folder = desk.system if name.startswith("config") else desk.cwd
        (folder / name).write_text(f"server: {{port: {port}}}\n")
        assert desk.load().settings.server.port == port
    (warning,) = desk.load().warnings
    assert warning.startswith("modelexpress.yaml is read, and modelexpress.yml, model-express.yaml")


def test_a_named_file_is_read_instead_and_relative_to_the_working_directory(desk: Desk) -> None:
    desk.write("server: {port: 1}\n")
    desk.write("server: {port: 2}\n", "other.yaml")
    loaded = desk.load(config_file=Path("other.yaml"))
    assert loaded.settings.server.port == 2
    assert str(loaded.origins["server.port"]) == "file other.yaml:1"


def test_json_and_toml_files_are_read(desk: Desk) -> None:
    json_file = desk.write('{\n\t"server": {"port": 1},\n\t"logging": {"structured": true}\n}\n', "a.json")
    loaded = desk.load(config_file=json_file)
    assert (loaded.settings.server.port, loaded.settings.logging.format) == (1, "json")
    assert str(loaded.origins["logging.structured"]) == "file a.json:3"
    toml_file = desk.write("[server]\nport = 2\n[[pull.patterns]]\nmodels = 'a/*'\n", "a.toml")
    loaded = desk.load(config_file=toml_file)
    assert (loaded.settings.server.port, loaded.settings.pull.patterns[0].models) == (2, "a/*")
    assert str(loaded.origins["server.port"]) == "file a.toml"


# The cache directory


def test_the_cache_directory_falls_back_step_by_step(desk: Desk) -> None:
    steps = [
        ({}, desk.home / ".cache/huggingface/hub", "default"),
        ({"XDG_CACHE_HOME": "/x"}, Path("/x/huggingface/hub"), "env XDG_CACHE_HOME"),
        ({"HF_HOME": "/h"}, Path("/h/hub"), "env HF_HOME"),
        ({"HUGGINGFACE_HUB_CACHE": "/u"}, Path("/u"), "env HUGGINGFACE_HUB_CACHE"),
        ({"HF_HUB_CACHE": "/c"}, Path("/c"), "env HF_HUB_CACHE"),
    ]
    env: dict[str, str] = {}
    for more, directory, origin in steps:
        env |= more
        loaded = desk.load("client", env=env)
        assert (loaded.settings.cache.directory, str(loaded.origins["cache.directory"])) == (
            directory,
            origin,
        )
    desk.write_init("local_path: /init\nserver_endpoint: x:1\n")
    loaded = desk.load("client", env=env)
    assert loaded.settings.cache.directory == Path("/init")
    assert str(loaded.origins["cache.directory"]).endswith("config.yaml:1")
    desk.write("cache: {local_path: /file}\n")
    assert desk.load("client", env=env).settings.cache.directory == Path("/file")
    env["MODEL_EXPRESS_CACHE_DIRECTORY"] = "/variable"
    assert desk.load("client", env=env).settings.cache.directory == Path("/variable")
    loaded = desk.load("client", {"cache.directory": "/flag"}, env)
    assert loaded.settings.cache.directory == Path("/flag")
    assert str(loaded.origins["cache.directory"]) == "flag --cache-path"
    assert (
        str(desk.load("server", {"cache.directory": "/f"}).origins["cache.directory"])
        == "flag --cache-directory"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cache", "{cwd}/cache"),
        ("./cache", "{cwd}/cache"),
        ("~/models", "{home}/models"),
        ("~", "{home}"),
        ("$ROOM/m", "/room/m"),
        ("${ROOM}x", "/roomx"),
        (" /spaced ", "/spaced"),
    ],
)
def test_paths_are_expanded_and_made_absolute(desk: Desk, text: str, expected: str) -> None:
    loaded = desk.load("server", {"cache.directory": text}, {"ROOM": "/room"})
    assert str(loaded.settings.cache.directory) == expected.format(cwd=desk.cwd, home=desk.home)


def test_a_path_with_a_variable_that_is_not_set_is_refused(desk: Desk) -> None:
    assert desk.refusal(flags={"cache.directory": "$NOWHERE/m"}) == (
        "flag --cache-directory: cache.directory: path '$NOWHERE/m': $NOWHERE is not set"
    )


def test_a_cache_directory_that_is_a_file_is_refused(desk: Desk) -> None:
    taken = desk.write("", "taken")
    assert "is a file: name a directory" in desk.refusal(flags={"cache.directory": str(taken)})


def test_two_names_of_one_setting_must_agree(desk: Desk) -> None:
    desk.write("cache:\n  directory: /a\n  local_path: /b\n")
    assert desk.refusal() == (
        "modelexpress.yaml:3: cache.local_path and cache.directory (line 2) are one setting with two values: "
        "keep one of them"
    )
    desk.write("cache:\n  directory: /a\n  local_path: /a\n")
    assert desk.load().settings.cache.directory == Path("/a")


def test_the_registry_stands_in_the_state_directory_unless_told(desk: Desk) -> None:
    assert desk.load().settings.registry.path == desk.home / ".local/state/modelexpress/registry.db"
    env = {"XDG_STATE_HOME": "/state"}
    assert desk.load(env=env).settings.registry.path == Path("/state/modelexpress/registry.db")
    desk.write("database: {path: ./models.db}\n")
    assert desk.load(env=env).settings.registry.path == desk.cwd / "models.db"
    env["MODEL_EXPRESS_DATABASE_PATH"] = "/app/models.db"
    assert desk.load(env=env).settings.registry.path == Path("/app/models.db")


# Values


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::", "[::1]", "cache-1.example.org", "my_service"])
def test_a_host_may_be_a_name_or_an_address_of_either_kind(desk: Desk, host: str) -> None:
    assert desk.load(flags={"server.host": host}).settings.server.host == host.strip("[]")


@pytest.mark.parametrize(
    "host", ["", " ", "localhost:8001", "[::1]:8001", "http://x", "a b", "1.2.3", "*", "[x]"]
)
def test_what_is_no_host_is_refused(desk: Desk, host: str) -> None:
    assert desk.refusal(flags={"server.host": host}).startswith("flag --host: server.host: ")


@pytest.mark.parametrize("port", ["0", 0, 1, 65_535])
def test_a_port_may_be_any_or_zero(desk: Desk, port: object) -> None:
    assert desk.load(flags={"server.port": port}).settings.server.port == int(str(port))


@pytest.mark.parametrize("port", ["-1", 65_536, "x", "80.5", True, "99999999999999999999", "[1]"])
def test_what_is_no_port_is_refused(desk: Desk, port: object) -> None:
    assert desk.refusal(flags={"server.port": port}).startswith("flag --port: server.port: ")


def test_the_metrics_port_is_not_the_servers(desk: Desk) -> None:
    assert "server.metrics_port is 8001, as server.port" in desk.refusal(flags={"server.metrics_port": 8001})
    assert desk.load(flags={"server.metrics_port": 0, "server.port": 0}).settings.server.metrics_port == 0


@pytest.mark.parametrize(
    ("one", "other"), [("port", "data_port"), ("port", "metrics_port"), ("data_port", "metrics_port")]
)
def test_no_two_ports_are_the_same(desk: Desk, one: str, other: str) -> None:
    flags = {f"server.{one}": 7000, f"server.{other}": 7000}
    assert f"server.{other} is 7000, as server.{one}" in desk.refusal(flags=flags)


@pytest.mark.parametrize(
    "url",
    ["host", "ftp://host:1", "http://host", "http://host:1/path", "http://u:p@host:1", "http://[::1", "x:y"],
)
def test_where_clients_are_sent_is_an_address(desk: Desk, url: str) -> None:
    assert "server.advertise_url" in desk.refusal(flags={"server.advertise_url": url})


@pytest.mark.parametrize(
    ("text", "level"), [("Info", "info"), ("TRACE", "trace"), ("WARNING", "warn"), ("warn", "warn")]
)
def test_levels_are_read_in_any_case(desk: Desk, text: str, level: str) -> None:
    assert desk.load(env={"MODEL_EXPRESS_LOG_LEVEL": text}).settings.logging.level == level


def test_structured_means_json(desk: Desk) -> None:
    desk.write("logging: {structured: true}\n")
    loaded = desk.load()
    assert loaded.settings.logging.format == "json"
    assert str(loaded.origins["logging.format"]) == "file modelexpress.yaml:1"


def test_structured_against_another_format_from_the_same_place_is_refused(desk: Desk) -> None:
    desk.write("logging:\n  structured: true\n  format: Pretty\n")
    assert desk.refusal() == (
        "modelexpress.yaml:3: logging.format 'pretty' contradicts logging.structured (modelexpress.yaml:2), "
        "which means json: keep one of them"
    )


def test_structured_and_a_format_from_different_places_rank_as_everything_does(desk: Desk) -> None:
    desk.write("logging: {structured: true}\n")
    assert desk.load(flags={"logging.format": "compact"}).settings.logging.format == "compact"
    desk.write("logging: {format: pretty}\n")
    assert desk.load(env={"MODEL_EXPRESS_LOGGING_STRUCTURED": "1"}).settings.logging.format == "json"


@pytest.mark.parametrize(
    ("text", "is_shared"),
    [("1", False), ("true", False), ("YES", False), ("On", False), ("0", True), ("false", True), ("no", True),
     ("OFF", True)],
)  # fmt: skip
def test_no_shared_storage_is_read_in_every_spelling(desk: Desk, text: str, is_shared: bool) -> None:
    loaded = desk.load("client", env={"MODEL_EXPRESS_NO_SHARED_STORAGE": text})
    assert loaded.settings.cache.shared_storage is is_shared


def test_a_flag_gives_the_value_of_shared_storage_itself(desk: Desk) -> None:
    loaded = desk.load("client", {"cache.shared_storage": False}, {"MODEL_EXPRESS_NO_SHARED_STORAGE": "0"})
    assert loaded.settings.cache.shared_storage is False
    assert str(loaded.origins["cache.shared_storage"]) == "flag --no-shared-storage"


@pytest.mark.parametrize("text", ["1", "ON", "yes", "True"])
def test_the_hubs_offline_switch_is_read_as_the_hub_reads_it(desk: Desk, text: str) -> None:
    assert desk.load(env={"HF_HUB_OFFLINE": text}).settings.origin.offline
    assert not desk.load(env={"HF_HUB_OFFLINE": "whatever"}).settings.origin.offline


def test_the_hubs_address_variable_counts_below_the_file(desk: Desk) -> None:
    env = {"HF_ENDPOINT": "http://mirror:9000/"}
    loaded = desk.load(env=env)
    assert (loaded.settings.origin.endpoint, str(loaded.origins["origin.endpoint"])) == (
        "http://mirror:9000",
        "env HF_ENDPOINT",
    )
    desk.write("origin: {endpoint: 'https://hub.example.org/hf'}\n")
    assert desk.load(env=env).settings.origin.endpoint == "https://hub.example.org/hf"


@pytest.mark.parametrize(
    "url",
    [
        "hub",
        "ftp://hub",
        "https://",
        "https://u:secret@hub",
        "https://hub?token=x",
        "https://hub:x",
        "https://[::1",
    ],
)
def test_what_is_no_origin_is_refused(desk: Desk, url: str) -> None:
    message = desk.refusal(env={"HF_ENDPOINT": url})
    assert message.startswith("env HF_ENDPOINT: origin.endpoint: ")
    assert "secret" not in message


@pytest.mark.parametrize(
    ("text", "value"), [("always", "always"), ("NEVER", "never"), ("0", 0), ("5m", 300), (7, 7)]
)
def test_revalidation_is_a_time_or_a_word(desk: Desk, text: object, value: object) -> None:
    assert desk.load(flags={"origin.revalidate": text}).settings.origin.revalidate == value


def test_lists_come_from_files_or_with_commas(desk: Desk) -> None:
    desk.write("origin:\n  redirect_hosts: [CDN.local, 127.0.0.1]\n")
    assert desk.load().settings.origin.redirect_hosts == ("cdn.local", "127.0.0.1")
    env = {"MODEL_EXPRESS_ORIGIN_REDIRECT_HOSTS": " a , ,b,"}
    assert desk.load(env=env).settings.origin.redirect_hosts == ("a", "b")


@pytest.mark.parametrize("host", ["10.0.0.0/8", "*.local", ".local", "cdn:80", "http://cdn", "10.0.0"])
def test_a_redirect_host_that_is_no_host_is_refused(desk: Desk, host: str) -> None:
    message = desk.refusal(env={"MODEL_EXPRESS_ORIGIN_REDIRECT_HOSTS": f"localhost,{host}"})
    assert message.startswith("env MODEL_EXPRESS_ORIGIN_REDIRECT_HOSTS: origin.redirect_hosts[1]: ")
    assert host in message


def test_mirrors_are_origins_as_the_endpoint_is(desk: Desk) -> None:
    assert desk.load().settings.origin.mirrors == ()
    env = {"MODEL_EXPRESS_ORIGIN_MIRRORS": "https://a.example/, http://b.example:8080/hub"}
    assert desk.load(env=env).settings.origin.mirrors == ("https://a.example", "http://b.example:8080/hub")
    desk.write("origin:\n  mirrors: [https://a.example, 'ftp://b']\n")
    assert desk.refusal().startswith(
        "modelexpress.yaml:2: origin.mirrors[1]: origin 'ftp://b' is not an http"
    )
    desk.write("origin:\n  mirrors:\n    - https://me:secret@a.example\n")
    message = desk.refusal()
    assert "origin.mirrors[0]" in message and "credentials" in message and "secret" not in message


@pytest.mark.parametrize(
    ("mirrors", "problem"),
    [
        ("https://huggingface.co/", "'https://huggingface.co' is origin.endpoint itself: leave it out"),
        ("https://a.example, https://a.example/", "'https://a.example' is there twice: leave one out"),
    ],
)
def test_a_mirror_that_would_do_nothing_is_refused(desk: Desk, mirrors: str, problem: str) -> None:
    env = {"MODEL_EXPRESS_ORIGIN_MIRRORS": mirrors}
    assert desk.refusal(env=env) == f"env MODEL_EXPRESS_ORIGIN_MIRRORS: origin.mirrors: {problem}"


def test_the_bound_on_the_origin_is_a_number_of_bytes(desk: Desk) -> None:
    assert desk.load().settings.origin.max_bytes_per_second == 0
    env = {"MODEL_EXPRESS_ORIGIN_MAX_BYTES_PER_SECOND": "125000000"}
    assert desk.load(env=env).settings.origin.max_bytes_per_second == 125_000_000
    env = {"MODEL_EXPRESS_ORIGIN_MAX_BYTES_PER_SECOND": "100MB"}
    assert desk.load(env=env).settings.origin.max_bytes_per_second == 100 * 1024**2
    for text in ("-1", "100 miles", "fast"):
        assert "origin.max_bytes_per_second" in desk.refusal(
            env={"MODEL_EXPRESS_ORIGIN_MAX_BYTES_PER_SECOND": text}
        )


def test_patterns_say_what_is_pulled_for_which_models(desk: Desk) -> None:
    desk.write(
        "pull:\n  patterns:\n    - models: 'meta-llama/*'\n      include: ['*.safetensors', '*.json']\n"
        "      exclude: original/*\n      weights: Safetensors-First\n    - models: '*'\n"
    )
    first, second = desk.load().settings.pull.patterns
    assert first.include == ("*.safetensors", "*.json")
    assert (first.exclude, first.weights) == (("original/*",), "safetensors-first")
    assert (second.include, second.exclude, second.weights) == ((), (), None)


# The endpoint


def test_the_endpoint_comes_from_the_one_resolver(desk: Desk) -> None:
    desk.write_init("local_path: /m\nserver_endpoint: init:1\n")
    loaded = desk.load("client")
    assert loaded.settings.connection.endpoint == "http://init:1"
    assert str(loaded.origins["connection.endpoint"]).endswith("/.model-express/config.yaml:2")
    desk.write("cache: {server_endpoint: 'second:2'}\n")
    assert desk.load("client").settings.connection.endpoint == "http://second:2"
    desk.write("connection: {endpoint: 'file:3'}\ncache: {server_endpoint: 'http://localhost:8001'}\n")
    loaded = desk.load("client")
    assert (loaded.settings.connection.endpoint, loaded.warnings) == ("http://file:3", ())
    assert str(loaded.origins["connection.endpoint"]) == "file modelexpress.yaml:1"
    loaded = desk.load("client", env={"MX_SERVER_ADDRESS": "variable:4"})
    assert str(loaded.origins["connection.endpoint"]) == "env MX_SERVER_ADDRESS"
    assert (
        desk.load("client", {"connection.endpoint": "flag:5"}).settings.connection.endpoint == "http://flag:5"
    )


def test_two_endpoints_in_a_file_are_a_warning(desk: Desk) -> None:
    desk.write("connection:\n  endpoint: one:1\ncache:\n  server_endpoint: two:2\n")
    (warning,) = desk.load("client").warnings
    assert warning.startswith("modelexpress.yaml:4: cache.server_endpoint 'two:2' does not count")


def test_disagreeing_endpoint_variables_are_a_warning_of_the_client_alone(desk: Desk) -> None:
    env = {"MODEL_EXPRESS_URL": "one:1", "MX_SERVER_ADDRESS": "two:2"}
    (warning,) = desk.load("client", env=env).warnings
    assert "MODEL_EXPRESS_URL" in warning
    assert "MX_SERVER_ADDRESS" in warning
    assert desk.load("server", env=env).warnings == ()


def test_a_bad_endpoint_names_the_line_it_is_on(desk: Desk) -> None:
    desk.write("connection:\n  timeout_secs: 5\n  endpoint: https://x\n")
    assert desk.refusal("client").startswith("modelexpress.yaml:3: server address 'https://x' asks for TLS")


def test_what_kubernetes_sets_for_a_service_of_that_name_is_no_setting(desk: Desk) -> None:
    env = {
        "MODEL_EXPRESS_SERVER_PORT": "tcp://10.0.0.1:8001",
        "MODEL_EXPRESS_SERVER_SERVICE_HOST": "10.0.0.1",
        "MODEL_EXPRESS_SERVER_SERVICE_PORT": "8001",
        "MODEL_EXPRESS_SERVER_SERVICE_PORT_GRPC": "8001",
        "MODEL_EXPRESS_SERVER_PORT_8001_TCP": "tcp://10.0.0.1:8001",
        "MODEL_EXPRESS_SERVER_PORT_8001_TCP_ADDR": "10.0.0.1",
    }
    loaded = desk.load(env=env)
    assert (loaded.settings.server.port, loaded.warnings) == (8001, ())


# Names nobody knows


def test_an_unknown_variable_with_our_prefix_is_a_warning_with_the_nearest_name(desk: Desk) -> None:
    env = {"MODEL_EXPRESS_SERVR_PORT": "1", "MODEL_EXPRESS_LOG_LEVEL": "info", "OTHER": "x"}
    assert desk.load(env=env).warnings == (
        "'MODEL_EXPRESS_SERVR_PORT' is set, but no such variable is read: "
        "did you mean MODEL_EXPRESS_SERVER_PORT?",
    )


IDLE_AT_SERVERS = (
    "REDIS_URL", "MX_REDIS_HOST", "MX_REDIS_PORT", "MX_METADATA_NAMESPACE", "MX_REAPER_SCAN_INTERVAL_SECS",
    "MX_HEARTBEAT_TIMEOUT_SECS", "MX_GC_TIMEOUT_SECS",
)  # fmt: skip
IDLE_ANYWHERE = (
    "MODEL_EXPRESS_S3_TIMEOUT_SECS", "MODEL_EXPRESS_MAX_RETRIES", "MODEL_EXPRESS_RETRY_DELAY",
    "MODEL_EXPRESS_ENVIRONMENT", "MODEL_EXPRESS_DEBUG", "MODEL_EXPRESS_MAX_CONCURRENT_REQUESTS",
)  # fmt: skip


@pytest.mark.parametrize("name", [*IDLE_AT_SERVERS, *IDLE_ANYWHERE])
def test_a_variable_of_ours_that_does_nothing_yet_is_a_warning_where_it_would_be_read(
    desk: Desk, name: str
) -> None:
    expected = (f"{name} is set, and does nothing in this version: unset it",)
    assert desk.load("server", env={name: "1"}).warnings == expected
    assert desk.load("client", env={name: "1"}).warnings == (() if name in IDLE_AT_SERVERS else expected)
    assert desk.load("server", env={name: " "}).warnings == ()


def test_what_was_set_for_other_programs_is_no_warning(desk: Desk) -> None:
    names = (
        "AWS_ACCESS_KEY_ID", "AWS_REGION", "GOOGLE_APPLICATION_CREDENTIALS", "NGC_API_KEY",
        "NGC_CLI_HOME", "REDIS_HOST", "POD_NAMESPACE", "RUST_LOG", "MX_CONTIGUOUS_REG",
    )  # fmt: skip
    env = dict.fromkeys(names, "1") | {"MX_REDIS_PORT": "tcp://10.0.0.1:6379"}
    assert desk.load("server", env=env).warnings == desk.load("client", env=env).warnings == ()
