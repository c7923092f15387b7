"""Secrets reach the function that was granted them and nothing else: no board, prompt, token, log or error."""

from __future__ import annotations

import base64
import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, SecretStr

from agentsys.agents import Agent, Bid, Request
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import BOTTOM, NOBODY, PUBLIC, Label, Readers
from agentsys.blackboard.merges import Insert, SetFields
from agentsys.context import Context
from agentsys.errors import ConfigurationError
from agentsys.events import RunEvent, TokensStreamed
from agentsys.gateway import Deny, Gateway, PolicyDenied
from agentsys.memoisation import Memoise
from agentsys.policy.policy import Policy
from agentsys.redaction import Redactor, _forms
from agentsys.runtime import Runtime
from agentsys.secrets import Secret, SecretReference, Secrets, SecretUnavailable, declared_in
from agentsys.settings import load_settings
from agentsys.testing import ScriptedModel, prompt_text
from agentsys.tools import Tool, ToolRegistry, tool

VALUE = "s3cr3t/of+the-hub"
VARIABLE = "SECRET_OF_TESTS"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, VALUE)
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


def secret(*tools: str, readers: Readers = NOBODY, **more: Any) -> Secret:
    source: dict[str, Any] = more or {"variable": VARIABLE}
    return Secret("hub", tools=frozenset(tools), readers=readers, **source)


def leaks(folder: Path, value: str) -> list[str]:
    """Return the files below a folder that hold the value, as it is or encoded."""
    known = Redactor({"hub": [value]})
    found = []
    # Beside the files lies the socket of the process that writes them.
    for path in filter(Path.is_file, folder.iterdir()):
        text = path.read_bytes().decode("latin-1")
        if any(form.encode().decode("latin-1") in text for form in _forms(value)) or known.text(text) != text:
            found.append(path.name)
    return found


def echoing(returns: Any = lambda key: key, **options: Any) -> Tool:
    declared = {"effect": EffectClass.PURE, "consequential": False, **options}

    @tool(name="use", **declared)
    def use(key: SecretStr, text: str = "") -> Any:
        assert repr(key) == "SecretStr('**********')"
        logging.getLogger("tool").warning("called with %s", key.get_secret_value())
        return returns(key.get_secret_value())

    return use


async def calling(context: Any, value: Any) -> Any:
    return (await context.call("use", key={"secret": "hub"}, text="t")).value


async def test_the_function_gets_the_value_and_everybody_else_the_name(tmp_path: Path) -> None:
    got: list[str] = []
    with Board.open(tmp_path / "board.db") as board:
        runtime = Runtime(
            board,
            ScriptedModel(str),
            tools=[echoing(lambda key: got.append(key) or {"echo": f"Bearer {key}"})],
            workflows=[calling],
            secrets=[secret("use")],
        )
        result = await runtime.run("calling")
        assert got == [VALUE] and result.value == {"echo": "Bearer [secret hub]"}
        (effect,) = board.effects(result.run)
        assert effect.intent.arguments == {"key": {"secret": "hub"}, "text": "t"}
        assert (await runtime.replay(result.run)).identical and got == [VALUE]
        assert leaks(tmp_path, VALUE) == []
    assert leaks(tmp_path, VALUE) == []


ENCODINGS = [
    lambda value: value,
    lambda value: f"https://u:{quote(value, safe='')}@host/",
    lambda value: {"Authorization": "Basic " + base64.b64encode(f"user:{value}".encode()).decode()},
    lambda value: [value.encode().hex(), {value: 1}],
    lambda value: (_ for _ in ()).throw(RuntimeError(f"could not log in with {value!r}")),
    lambda value: (_ for _ in ()).throw(RuntimeError("x" * 1990 + value)),
    lambda value: object.__new__(type(f"Odd{value}", (), {})),
]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    # Of some variety, or a board holds it by chance, as it does eight zeros.
    value=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=10, max_size=40).filter(
        lambda value: len(set(value)) >= 7
    ),
    encodings=st.lists(st.sampled_from(ENCODINGS), min_size=1, max_size=4),
    prompted=st.booleans(),
)
async def test_after_any_run_no_file_prompt_log_line_or_event_holds_it(
    tmp_path_factory: pytest.TempPathFactory, value: str, encodings: list[Any], prompted: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, value)
        folder = tmp_path_factory.mktemp("board")
        logged, events = await everything(folder, encodings, prompted, [secret("use")])
        assert leaks(folder, value) == []
        assert value not in "".join(logged) and value not in repr(events)


async def everything(
    folder: Path, encodings: list[Any], prompted: bool, secrets: list[Secret]
) -> tuple[list[str], list[RunEvent]]:
    """Run a workflow whose tool leaks what it can; whose model, where it is told the value, says it again."""
    key = Secret("hub", variable=VARIABLE).value()
    turns = iter(encodings)
    logged: list[str] = []
    events: list[RunEvent] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(logging.Formatter().format(record))  # type: ignore[method-assign]
    root = logging.getLogger()
    root.addHandler(handler)

    async def workflow(context: Any, value: Any) -> Any:
        said = []
        for _ in encodings:
            try:
                said.append((await context.call("use", key={"secret": "hub"}, text=str(len(said)))).value)
            except Exception as error:
                said.append(str(error))
        asked = f"{key} {said} {value}" if prompted else f"{said} {value}"
        answer = (await context.generate(asked)).value
        context.put("shared", "answer", answer, type="note")
        # The operator's own code may have it from elsewhere, and pass it on by mistake.
        context.put("shared", "mistake", {"own": key}, type="note")
        with contextlib.suppress(PolicyDenied):
            await context.call("use", key={"secret": "hub"}, text=f"--key={key}")
        if len(encodings) % 2:
            raise RuntimeError(f"{key} does not work")
        return [said, answer, key]

    factory = logging.getLogRecordFactory()
    try:
        with Board.open(folder / "board.db") as board:
            use = echoing(lambda value: next(turns)(value))
            model = ScriptedModel(lambda prompt: prompt)
            runtime = Runtime(board, model, tools=[use], workflows=[workflow], secrets=secrets)
            result = await runtime.run("workflow", f"my key is {key}", listener=events.append)
            assert result.status == ("failed" if len(encodings) % 2 else "done"), result.failure
            if result.failure is not None:
                assert result.failure.message == "[secret hub] does not work"
            assert (await runtime.replay(result.run)).identical
            if secrets:
                assert all(key not in prompt_text(request) for request in model.requests)
            # A copy of the write-ahead log, before closing folds it into the file.
            (folder / "wal").write_bytes((folder / "board.db-wal").read_bytes())
    finally:
        root.removeHandler(handler)
        logging.setLogRecordFactory(factory)
    return logged, events


async def test_a_planted_leak_is_found(tmp_path: Path) -> None:
    """The same run with the value declared under a name that the tool is not told to keep: everything holds it."""

    @tool(name="use", effect=EffectClass.PURE, consequential=False)
    def use(text: str = "", key: Any = None) -> Any:
        logging.getLogger("tool").warning("called with %s", VALUE)
        return VALUE

    async def workflow(context: Any, value: Any) -> Any:
        return (await context.generate(str((await context.call("use")).value))).value

    model = ScriptedModel(lambda prompt: prompt)
    with Board.open(tmp_path / "board.db") as board:
        result = await Runtime(board, model, tools=[use], workflows=[workflow]).run("workflow")
        assert result.value == VALUE and VALUE in prompt_text(model.requests[0])
        assert "board.db-wal" in leaks(tmp_path, VALUE)
    assert leaks(tmp_path, VALUE) != []


async def test_streamed_tokens_are_redacted_wherever_they_are_cut() -> None:
    from agentsys.serving.requests import Chunk, FinishReason, Generation, Timings, Usage

    class Pieces:
        async def generate(self, request: Any, *, model: Any = None, on_chunk: Any = None) -> Generation:
            text = f"it is {VALUE}, and more"
            for at in range(0, len(text), 3):
                on_chunk(Chunk(text[at : at + 3]))
            return Generation(text, (), FinishReason.STOP, Usage(), Timings(), "pieces")

    async def workflow(context: Any, value: Any) -> Any:
        return (await context.generate("say it")).value

    shown: list[str] = []

    def listen(event: RunEvent) -> None:
        if isinstance(event, TokensStreamed):
            shown.append(event.text)

    with Board.open(":memory:") as board:
        runtime = Runtime(board, Pieces(), workflows=[workflow], secrets=[secret()])
        result = await runtime.run("workflow", listener=listen)
    assert result.value == "".join(shown) == "it is [secret hub], and more"


@pytest.mark.parametrize(
    ("secrets", "argument", "said"),
    [
        ([], {"secret": "hub"}, "no secret is named 'hub'"),
        ([secret("use")], {"secret": "other"}, "no secret is named 'other'; there are hub"),
        ([secret("another")], {"secret": "hub"}, "not granted to use"),
        ([secret("use")], VALUE, "bad-arguments"),
        ([secret("use")], {"secret": "hub", "more": 1}, "bad-arguments"),
        ([secret("use")], None, "bad-arguments"),
    ],
)
async def test_a_call_that_may_not_have_a_secret_is_denied(secrets: list[Secret], argument: Any, said: str) -> None:
    async def workflow(context: Any, value: Any) -> Any:
        return (await context.call("use", key=argument)).value

    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), tools=[echoing()], workflows=[workflow], secrets=secrets)
        result = await runtime.run("workflow")
        assert result.failure is not None and result.failure.code == "AGS-0310" and said in result.failure.message
        assert board.effects(result.run) == []


@pytest.mark.parametrize(
    ("readers", "audience", "allowed"),
    [
        (NOBODY, NOBODY, True),
        (NOBODY, Readers.of("web:a"), False),
        (Readers.of("web:a"), Readers.of("web:a"), True),
        (Readers.of("web:a"), Readers.of("web:a", "web:b"), False),
        (Readers.of("web:a"), PUBLIC, False),
    ],
)
async def test_all_who_learn_the_arguments_must_be_readers(readers: Readers, audience: Readers, allowed: bool) -> None:
    with Board.open(":memory:") as board:
        runtime = Runtime(
            board,
            ScriptedModel(str),
            tools=[echoing(audience=audience)],
            workflows=[calling],
            secrets=[secret("use", readers=readers)],
        )
        result = await runtime.run("calling", label=Label.trusted(readers=PUBLIC))
        assert (result.failure is None) == allowed
        assert allowed or "not all among its readers" in result.failure.message  # type: ignore[union-attr]


async def test_a_value_among_the_arguments_is_denied_before_it_is_on_record(tmp_path: Path) -> None:
    async def workflow(context: Any, value: Any) -> Any:
        return (await context.call("use", key={"secret": "hub"}, text=base64.b64encode(VALUE.encode()).decode())).value

    with Board.open(tmp_path / "board.db") as board:
        runtime = Runtime(board, ScriptedModel(str), tools=[echoing()], workflows=[workflow], secrets=[secret("use")])
        result = await runtime.run("workflow")
        assert result.failure is not None and "give its name instead" in result.failure.message
        report = await runtime.audit(result.run)
        assert report.difference is None and report.taken == 1
    assert leaks(tmp_path, VALUE) == []


def refused(text: str) -> str:
    raise ValueError(f"{text} is no text")


class Careless(Agent):
    """Says the value in its bid."""

    name = "careless"
    interests = frozenset({"help"})

    async def volunteer(self, request: Request) -> Bid | None:
        return Bid(self.name, 0.5, reason=f"I have {VALUE}", value=[VALUE])

    async def act(self, context: Context, request: Request) -> Any:
        return "done"


async def test_merges_bids_and_denials_are_put_on_record_without_it(tmp_path: Path) -> None:
    @tool(name="strict", effect=EffectClass.PURE)
    def strict(text: Annotated[str, AfterValidator(refused)]) -> str:
        return text

    async def workflow(context: Any, value: Any) -> Any:
        context.merge("shared", "keys", Insert((VALUE,)), type="set")
        context.merge("shared", "names", SetFields(((VALUE, [VALUE]),)), type="map")
        await context.ask("help")
        with pytest.raises(PolicyDenied, match=r"\[secret hub\] is no text"):
            await context.call("strict", text=VALUE)

    events: list[RunEvent] = []
    with Board.open(tmp_path / "board.db") as board:
        model = ScriptedModel(str)
        agents, tools, workflows = [Careless()], [strict], [workflow]
        runtime = Runtime(board, model, agents=agents, tools=tools, workflows=workflows, secrets=[secret("use")])
        result = await runtime.run("workflow", listener=events.append)
        assert result.failure is None
        kept = board.get("shared", "keys"), board.get("shared", "names")
        assert [entry and entry.value for entry in kept] == [["[secret hub]"], {"[secret hub]": ["[secret hub]"]}]
        assert (await runtime.replay(result.run)).identical
        assert (await runtime.audit(result.run)).identical
    assert leaks(tmp_path, VALUE) == [] and VALUE not in repr(events)


async def test_why_a_server_cannot_be_reached_is_said_without_it() -> None:
    class Away:
        prefix = "away_"

        def known(self) -> dict[str, Tool]:
            return {}

        async def discover(self, name: str | None = None) -> None:
            raise ConfigurationError(f"No answer from https://user:{quote(VALUE, safe='')}@away/.")

        async def close(self) -> None: ...

    tools = ToolRegistry()
    tools.attach(Away())
    denied = await Gateway(Policy(), tools, Secrets.of(secret())).judge("away_use", {}, control=BOTTOM, labels={})
    assert isinstance(denied, Deny) and "user:[secret hub]@away" in denied.reason


async def test_a_declassifying_rule_lets_no_secret_out() -> None:
    from agentsys.policy.documents import read_policy

    policy = read_policy('[tools.use]\naudience = ["web:b"]\ndeclassifies = true\n')
    with Board.open(":memory:") as board:
        runtime = Runtime(
            board,
            ScriptedModel(str),
            tools=[echoing()],
            workflows=[calling],
            secrets=[secret("use", readers=Readers.of("web:a"))],
            policy=policy,
        )
        result = await runtime.run("calling")
        assert result.failure is not None and "tell the secret hub to web:b" in result.failure.message


async def test_a_person_is_asked_about_the_name(tmp_path: Path) -> None:
    with Board.open(tmp_path / "board.db") as board:
        runtime = Runtime(
            board,
            ScriptedModel(str),
            tools=[echoing()],
            workflows=[calling],
            secrets=[secret("use")],
            policy=Policy.of(asks=["use"]),
        )
        import asyncio

        running = asyncio.create_task(runtime.run("calling"))
        while not (pending := runtime.approvals("pending")):
            await asyncio.sleep(0.01)
        assert pending[0].arguments == {"key": {"secret": "hub"}, "text": "t"}
        await runtime.decide(pending[0].id, "approve")
        assert (await running).value == "[secret hub]"
    assert leaks(tmp_path, VALUE) == []


async def test_without_a_value_the_call_fails_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, said in ((None, "unset or empty"), ("short", "shorter than 8")):
        if value is None:
            monkeypatch.delenv(VARIABLE)
        else:
            monkeypatch.setenv(VARIABLE, value)
        with Board.open(":memory:") as board:
            runtime = Runtime(
                board, ScriptedModel(str), tools=[echoing()], workflows=[calling], secrets=[secret("use")]
            )
            result = await runtime.run("calling")
            assert result.failure is not None and said in result.failure.message
            assert "AGS-0340" in result.failure.message and "short\n" not in result.failure.message


async def test_a_changed_value_is_used_at_once_and_the_old_one_still_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("the-first-value\n")
    held = Secrets.of(secret("use", file=path))
    use = echoing(lambda key: key)
    assert await use.invoke({"key": {"secret": "hub"}}, "k", held) == "the-first-value"
    path.write_text("the-second-value")
    assert await use.invoke({"key": {"secret": "hub"}}, "k", held) == "the-second-value"
    assert held.text("the-first-value the-second-value") == "[secret hub] [secret hub]"
    path.unlink()
    with pytest.raises(SecretUnavailable, match="cannot be read"):
        await use.invoke({"key": {"secret": "hub"}}, "k", held)


async def test_what_was_not_used_is_taken_out_too() -> None:
    """A tool that finds a secret by itself, in its environment, tells it to nobody either."""
    assert Secrets.of(secret()).text(f"env: {VALUE}") == "env: [secret hub]"


async def test_a_tool_that_takes_a_call_back_has_what_the_call_had() -> None:
    seen: list[str] = []

    def cancel(key: SecretStr, result: Any) -> None:
        seen.append(key.get_secret_value())

    @tool(name="use", effect=EffectClass.COMPENSABLE, audience=NOBODY, source=Label.trusted(), undo=cancel)
    def use(key: SecretStr, text: str) -> str:
        return "made"

    async def workflow(context: Any, value: Any) -> Any:
        async with context.saga():
            await calling(context, value)
            raise LookupError("later")

    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), tools=[use], workflows=[workflow], secrets=[secret("use")])
        await runtime.run("workflow")
        assert seen == [VALUE]


async def test_a_memoised_answer_is_kept_without_it(tmp_path: Path) -> None:
    with Board.open(tmp_path / "board.db") as board:
        runtime = Runtime(
            board,
            ScriptedModel(str),
            tools=[echoing(memo=Memoise())],
            workflows=[calling],
            secrets=[secret("use")],
        )
        assert [(await runtime.run("calling")).value for _ in range(2)] == ["[secret hub]"] * 2
    assert leaks(tmp_path, VALUE) == []


def test_a_parameter_may_be_left_out_or_annotated_but_not_hidden_in_another() -> None:
    @tool(effect=EffectClass.PURE)
    def optional(key: SecretStr | None = None, other: Annotated[SecretStr, "why"] | None = None) -> None: ...

    assert optional.arguments({}) == {"key": None, "other": None}
    assert optional.secrets_in({"key": {"secret": "a"}, "other": {"secret": "b"}}) == ["a", "b"]
    assert optional.secrets_in({"key": None}) == []
    with pytest.raises(ConfigurationError, match="parameter of its own"):

        @tool(effect=EffectClass.PURE)
        def hidden(keys: list[SecretStr]) -> None: ...


def test_secrets_come_from_the_settings_and_values_in_them_are_refused_unshown(tmp_path: Path) -> None:
    (tmp_path / "agentsys.toml").write_text(
        '[secrets.hub]\nvariable = "HUB"\ntools = ["fetch"]\nreaders = ["web:a"]\n[secrets.file]\nfile = "/run/x"\n'
    )
    by_file, by_variable = declared_in(load_settings(directory=tmp_path, environment={}).settings)
    assert by_variable == Secret("hub", "HUB", None, frozenset({"fetch"}), Readers.of("web:a"))
    assert by_file.source == "file /run/x" and by_file.readers == NOBODY
    for text in (f'hub = "{VALUE}"', f'hub = {{ value = "{VALUE}" }}', f'hub = {{ variable = "{VALUE}", file = "x" }}'):
        (tmp_path / "agentsys.toml").write_text(f"[secrets]\n{text}\n")
        with pytest.raises(ConfigurationError) as refusal:
            load_settings(directory=tmp_path, environment={})
        assert "secrets.hub" in str(refusal.value) and VALUE not in str(refusal.value)


def test_logs_are_redacted_with_their_arguments_and_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    from agentsys.secrets import redact_logs

    held = Secrets.of(secret())
    for _ in range(3):
        redact_logs(held)
    log = logging.getLogger("somebody.else")
    try:
        raise ValueError(f"with {VALUE}")
    except ValueError:
        log.exception("failed: %s %d", VALUE, 3)
    log.warning("%s", {"url": f"https://x/?k={quote(VALUE, safe='')}"})
    log.warning("nothing %s", "here")
    assert VALUE not in caplog.text and quote(VALUE, safe="") not in caplog.text
    assert "failed: [secret hub] 3" in caplog.text and "ValueError: with [secret hub]" in caplog.text
    assert "nothing here" in caplog.text


def test_a_log_line_whose_arguments_do_not_fit_fails_nobody_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    from agentsys.secrets import redact_logs

    held = Secrets.of(secret("t"))
    redact_logs(held)
    with caplog.at_level(logging.INFO, "of.tests"):
        logging.getLogger("of.tests").info("%d of %s", VALUE)
    assert VALUE not in caplog.text and "%d of %s ('[secret hub]',)" in caplog.text


def test_a_value_taken_in_while_another_thread_logs_is_taken_out_of_what_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Secrets.of(secret("t"))
    building, changed = threading.Event(), threading.Event()

    def slowly(values: Any) -> Redactor:
        made = Redactor(values)
        building.set()
        changed.wait(0.5)
        return made

    monkeypatch.setattr("agentsys.secrets.Redactor", slowly)
    logging_thread = threading.Thread(target=held.text, args=("a line",))
    logging_thread.start()
    assert building.wait(5)
    monkeypatch.setenv(VARIABLE, "another-value-since")
    held.resolve("t", SecretReference(secret="hub"))
    changed.set()
    logging_thread.join()
    assert held.text(f"{VALUE} another-value-since") == "[secret hub] [secret hub]"
