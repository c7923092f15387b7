"""The tables of ``agentsys.toml``: what can be set, with its bounds and defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, field_validator, model_validator

from agentsys.serving.weights.catalogue import DEFAULT_MODEL

SHORTEST_TOKEN = 16
"""Characters of a bearer token."""


class Section(BaseModel):
    """A table of ``agentsys.toml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def words(value: object) -> object:
    """Let the environment give a list as words between commas, or as JSON."""
    if isinstance(value, str) and value.lstrip().startswith('["'):
        return json.loads(value)
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


class ModelSettings(Section):
    """Which model agents use, and how the in-process engine runs it."""

    name: str = Field(
        DEFAULT_MODEL,
        description="a pulled model, a folder, or a Hugging Face id; vllm:NAME runs one in vLLM; or "
        "http://host/v1#model for an OpenAI-compatible URL; or the name of a table of [models]",
    )
    api_key: str | None = Field(None, description="bearer token of an OpenAI-compatible URL", repr=False)
    weight_format: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto", description="how weights are held; auto is the fastest batch-invariant format"
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="where the in-process engine runs; cuda holds weights in bfloat16 and does not speculate"
    )
    threads: int | None = Field(None, ge=1, description="cores the engine may use; default: all, at most 16")
    kv_cache_mib: int = Field(256, ge=1, description="upper bound of the key-value cache, in MiB")
    max_batch: int = Field(16, ge=1, description="requests that run at once")
    speculation: bool = Field(True, description="lossless prompt-lookup speculation")
    replicas: tuple[str, ...] = Field((), description="more engines of the same model, written like name")
    slots: int | None = Field(
        None, ge=1, description="calls that each replica is given at once; default: its own word, or 32"
    )
    queue: int = Field(10_000, ge=1, description="calls of one model that may wait for a replica")
    memory_mib: int | None = Field(
        None, ge=1, description="memory of loaded models, beyond which those not needed soon are unloaded; default: any"
    )
    gpu_memory_mib: int | None = Field(
        None, ge=1, description="the same of the GPU; default: nine tenths of what is free when the first is loaded"
    )
    adapters_at_once: int = Field(8, ge=1, description="LoRA adapters whose calls share a step, in vLLM on a GPU")

    _split = field_validator("replicas", mode="before")(words)


class NamedModelSettings(Section):
    """A model beside that of `[model]`, whose settings hold where this one says nothing."""

    spec: str | None = Field(None, description="what it is, written like model.name; default: its replicas alone")
    replicas: tuple[str, ...] = Field((), description="more engines of the same model, written like spec")
    api_key: SecretStr | None = Field(None, description="bearer token of its URLs")
    slots: int | None = Field(None, ge=1, description="calls that each replica is given at once")
    weight_format: Literal["auto", "float32", "bfloat16", "int8"] | None = Field(
        None, description="how weights are held"
    )
    device: Literal["cpu", "cuda"] | None = Field(None, description="where the in-process engine runs")
    kv_cache_mib: int | None = Field(None, ge=1, description="upper bound of the key-value cache, in MiB")
    max_batch: int | None = Field(None, ge=1, description="requests that run at once")
    adapters_at_once: int | None = Field(
        None, ge=1, description="LoRA adapters whose calls share a step, in vLLM on a GPU"
    )
    adapter: Path | None = Field(
        None, description="folder of a LoRA adapter, as PEFT writes it; it runs in the engines of another model"
    )
    adapter_of: str | None = Field(None, description="which model the adapter is for; default: that of [model]")

    _split = field_validator("replicas", mode="before")(words)

    @property
    def specs(self) -> tuple[str, ...]:
        """Every replica's spec."""
        return self.replicas if self.spec is None else (self.spec, *self.replicas)

    @model_validator(mode="after")
    def _has_a_replica(self) -> Self:
        if self.adapter is None and not self.specs:
            raise ValueError("give spec, replicas, or both; or adapter")
        return self

    @model_validator(mode="after")
    def _adapter_alone(self) -> Self:
        if self.adapter is None and self.adapter_of is not None:
            raise ValueError("adapter_of needs adapter")
        others = sorted(self.model_fields_set - {"adapter", "adapter_of"})
        if self.adapter is not None and others:
            raise ValueError(f"an adapter runs as its model does, and takes no {', '.join(others)}")
        return self


class ScheduleSettings(Section):
    """How calls are ordered, placed and run; `agentsys tune` writes this table."""

    fairness: float | None = Field(
        None, ge=0, description="seconds of urgency lost for each second of service beyond the least served tenant's"
    )
    haste: float | None = Field(
        None, ge=0, le=1, description="weight of the time that a call can spare, when its replica is chosen"
    )
    harm: float | None = Field(None, ge=0, description="weight of the delay that a call gives to more urgent ones")
    delay: float | None = Field(None, ge=0, description="weight of the delay that a call gives to less urgent ones")
    overcommit: float | None = Field(
        None, ge=1, description="calls given to a replica that preempts, as a multiple of its slots"
    )
    preemption_margin: float | None = Field(
        None,
        ge=0,
        description="seconds by which a call must be more urgent to be given to a replica without free slots",
    )
    prefill_chunk: int | None = Field(
        None, ge=1, description="prompt tokens of a step behind more urgent answers, in the torch engine"
    )


class BoardSettings(Section):
    """Where the shared state lives."""

    path: Path = Field(
        default_factory=lambda: platformdirs.user_state_path("agentsys") / "board.db", description="the board's file"
    )
    url: str | None = Field(
        None,
        description="instead of a file: postgresql://user@host/database?board=NAME, shared by several machines",
        repr=False,
    )
    durability: Literal["full", "normal"] = Field("full", description="normal may lose the last commits on power cut")
    keep: str | None = Field(
        None,
        pattern=r"^\d+[smhd]?$",
        description="how much of the past a server keeps readable: 30d, 12h, or a number of commits; default: all",
    )

    @property
    def location(self) -> Path | str:
        """What opens the board: its address in PostgreSQL if there is one, else its file."""
        return self.url or self.path


class LakeSettings(Section):
    """How data lakes are read and queried."""

    cache: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("agentsys") / "lakes", description="normalised tables"
    )
    query_seconds: float = Field(30.0, gt=0, description="time limit of one query")
    query_memory_mib: int = Field(512, ge=16, description="memory limit of one query, in MiB")
    query_rows: int = Field(1000, ge=1, description="rows a query may return")
    planner: Literal["auto", "focused", "grammar", "free"] = Field(
        "auto", description="how plans are written: focused (small models), grammar (larger ones), free (capable ones)"
    )


class RunSettings(Section):
    """Bounds of a run."""

    deadline_seconds: float | None = Field(None, gt=0, description="deadline of a run, from its start")
    volunteers: int = Field(8, ge=1, description="agents that may answer one request")


class MemoSettings(Section):
    """Calls of pure tools and deterministic model calls that opted in: made once, then answered from the board."""

    enabled: bool = Field(True, description="whether such calls are answered from memory")
    seconds: float = Field(604_800.0, gt=0, description="how long an answer holds at most")


class ApprovalSettings(Section):
    """What a person is asked."""

    expire_seconds: float | None = Field(
        None, gt=0, description="how long it waits before it counts as rejected; default: for ever"
    )


class TenantLimitSettings(Section):
    """Bounds for one tenant, instead of those for each."""

    calls: int | None = Field(None, ge=1, description="model calls that run at once")
    queued: int | None = Field(None, ge=0, description="calls more that wait for their turn")
    tokens_per_minute: int | None = Field(None, ge=1, description="tokens of prompts and answers")


class LimitSettings(Section):
    """How much the model server takes at once, of everybody and of each tenant."""

    calls: int = Field(4096, ge=1, description="model calls that the server holds, running or waiting")
    tenant_calls: int | None = Field(None, ge=1, description="calls of one tenant that run at once; default: any")
    tenant_queued: int | None = Field(None, ge=0, description="calls more that wait for their turn; default: any")
    tenant_tokens_per_minute: int | None = Field(
        None, ge=1, description="tokens of prompts and answers that one tenant may use; default: any"
    )
    read_seconds: float = Field(30.0, gt=0, description="a client that reads nothing for so long is dropped")
    drain_seconds: float = Field(30.0, ge=0, description="what a server that ends gives the answers under way")
    tenants: dict[str, TenantLimitSettings] = Field(
        default_factory=dict, description="bounds of single tenants, by name, as user:ann"
    )


class ServerSettings(Section):
    """Where `agentsys serve` listens, and who may call."""

    host: str = Field("127.0.0.1", description="address to bind; beyond this machine only with a token")
    port: int = Field(8700, ge=0, le=65535, description="port; 0 takes any free one")
    token: str | None = Field(
        None,
        min_length=SHORTEST_TOKEN,
        description="the owner's bearer token; every call then needs one",
        repr=False,
    )
    hosts: tuple[str, ...] = Field((), description="names the server may be called by, beside loopback's and `host`")
    origins: tuple[str, ...] = Field((), description="sites whose pages may call, as https://example.org")

    limits: LimitSettings = Field(default_factory=LimitSettings)

    _split = field_validator("hosts", "origins", mode="before")(words)

    @property
    def host_in_url(self) -> str:
        """``host`` as clients write it: an address of IPv6 in brackets."""
        return f"[{self.host}]" if ":" in self.host and not self.host.startswith("[") else self.host


class PrincipalSettings(Section):
    """Somebody else than the owner who may call the server, and how that is known: by one of the three."""

    token: SecretStr | None = Field(
        None, min_length=SHORTEST_TOKEN, description="bearer token; best in the environment"
    )
    token_file: Path | None = Field(None, description="file that holds the token and nothing else")
    token_hash: str | None = Field(
        None, pattern=r"^sha256:[0-9a-f]{64}$", description="the token's digest, by `agentsys principals token`"
    )

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum(given is not None for given in (self.token, self.token_file, self.token_hash)) != 1:
            raise ValueError("give one of token, token_file and token_hash")
        return self


class RemoteAgentSettings(Section):
    """A foreign A2A agent that may volunteer for requests."""

    url: str = Field(description="the agent's base address, or the address of its card")
    kinds: frozenset[str] = Field(min_length=1, description="kinds of request that it is offered")
    audience: str | None = Field(None, description="its name in labels, after a2a:; default: its host")
    hosts: frozenset[str] = Field(frozenset(), description="hosts that its card may name besides its own")
    token: SecretStr | None = Field(None, description="bearer token, sent to all its hosts")
    timeout: float = Field(120.0, gt=0, description="seconds it has for one answer")
    repeatable: bool = Field(False, description="whether a crash may repeat a request: asking twice does no harm")
    consequential: bool = Field(False, description="whether asking changes something: only trusted data may then ask")


class A2ASettings(Section):
    """Foreign agents, by the names that they have here."""

    agents: dict[str, RemoteAgentSettings] = Field(default_factory=dict, description="foreign agents that volunteer")


class ForeignToolSettings(Section):
    """The operator's word about one tool of a foreign MCP server, which stands above that about the server."""

    effect: Literal["pure", "idempotent", "irreversible"] | None = Field(None, description="what repeating it would do")
    consequential: bool | None = Field(None, description="whether it changes something: only trusted data may call it")
    trusted: bool | None = Field(None, description="whether its results count as the owner's own")
    audience: frozenset[str] | None = Field(None, description="principals that learn the arguments")
    timeout: float | None = Field(None, gt=0, description="seconds for one call")


class ForeignServerSettings(Section):
    """A foreign MCP server whose tools agents may call. What is not said of it is taken at its worst."""

    command: tuple[str, ...] = Field((), description="program and arguments of a server over standard streams")
    cwd: Path | None = Field(None, description="folder in which the program starts")
    env: frozenset[str] = Field(frozenset(), description="environment variables passed on to the program")
    url: str | None = Field(None, description="address of a server over streamable HTTP")
    token: SecretStr | None = Field(None, description="bearer token of that address")
    insecure: bool = Field(False, description="allow plain http to a public address")
    tools: frozenset[str] | None = Field(None, description="tools that may be called; default: all")
    effect: Literal["pure", "idempotent", "irreversible"] = Field(
        "irreversible", description="what repeating a call would do"
    )
    consequential: bool = Field(True, description="whether calls change something: only trusted data may then call")
    trusted: bool = Field(False, description="whether results count as the owner's own")
    audience: frozenset[str] | None = Field(None, description="principals that learn the arguments; default: mcp:NAME")
    timeout: float = Field(60.0, gt=0, description="seconds for one call")
    tool: dict[str, ForeignToolSettings] = Field(default_factory=dict, description="what is said of single tools")

    @model_validator(mode="after")
    def _has_one_transport(self) -> Self:
        if bool(self.command) == (self.url is not None):
            raise ValueError("give either command or url")
        return self


class McpSettings(Section):
    """Foreign MCP servers, by the names that they have here."""

    servers: dict[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]+([_-][A-Za-z0-9]+)*$", max_length=32)],
        ForeignServerSettings,
    ] = Field(default_factory=dict, description="foreign servers whose tools agents may call")


class ToolSettings(Section):
    """The built-in tools of `agentsys run` and `serve`."""

    builtin: frozenset[Literal["run_python", "fetch", "query_files"]] = Field(
        frozenset(), description="built-in tools that agents may call: run_python, fetch, query_files"
    )
    containment: Literal["strong", "weak"] = Field(
        "strong", description="weak: run Python also where this machine cannot hold all that `agentsys doctor` lists"
    )

    _split = field_validator("builtin", mode="before")(words)


class PythonSettings(Section):
    """What `run_python` may use and read."""

    seconds: float = Field(20.0, gt=0, description="time limit of one program")
    memory_mib: int = Field(1024, ge=64, description="memory limit of one program, in MiB of address space")
    readable: tuple[Path, ...] = Field((), description="files and folders that programs may read")

    _split = field_validator("readable", mode="before")(words)


class FetchSettings(Section):
    """Where `fetch` may connect, and what it takes in."""

    hosts: frozenset[str] = Field(frozenset(), description="hosts, as a.org, a.org:8443, *.a.org; none: it may not")
    private: frozenset[str] = Field(
        frozenset(), description="those of them that may lead to addresses of this machine or network"
    )
    insecure: bool = Field(False, description="allow plain http to public addresses")
    consequential: bool = Field(True, description="whether only trusted data may lead to a request")
    seconds: float = Field(20.0, gt=0, description="time limit of one request, redirects included")
    max_kib: int = Field(2048, ge=1, description="size limit of one page, in KiB")

    _split = field_validator("hosts", "private", mode="before")(words)


class FilesSettings(Section):
    """What `query_files` reads; its limits are those of the lake."""

    folder: str | None = Field(None, description="folder of data files, or package:NAME/FOLDER")


class SecretSettings(Section):
    """A secret: where it comes from, never what it is."""

    variable: str | None = Field(None, description="environment variable that holds it")
    file: Path | None = Field(None, description="file that holds it")
    tools: frozenset[str] = Field(frozenset(), description="tools that may be given it as an argument")
    readers: frozenset[str] = Field(
        frozenset(), description="principals that it may be told, as web:api.example.org; default: nobody"
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.variable is None) == (self.file is None):
            raise ValueError("give either variable or file; the value itself is never in the settings")
        return self
