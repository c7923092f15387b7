"""Precedence, sources, and bad input of the settings."""

from pathlib import Path

import pytest

from agentsys.errors import ConfigurationError
from agentsys.settings import load_settings


def test_precedence_and_sources(tmp_path):
    (tmp_path / "agentsys.toml").write_text('[model]\nname = "from-file"\nthreads = 3\n[lake]\nquery_rows = 7\n')
    loaded = load_settings(
        {"model.name": "from-flag", "model.threads": None},
        directory=tmp_path,
        environment={"AGENTSYS_MODEL__NAME": "from-environment", "AGENTSYS_LAKE__QUERY_ROWS": "9"},
    )
    assert loaded.settings.model.name == "from-flag"
    assert loaded.settings.model.threads == 3
    assert loaded.settings.lake.query_rows == 9
    assert loaded.sources["model.name"] == "flag"
    assert loaded.sources["model.threads"] == str(tmp_path / "agentsys.toml")
    assert loaded.sources["lake.query_rows"] == "environment"
    assert loaded.sources["board.durability"] == "default"


def test_every_fault_is_named_at_once_with_its_source(tmp_path):
    (tmp_path / "agentsys.toml").write_text('[model]\nnmae = "x"\n')
    with pytest.raises(ConfigurationError) as caught:
        load_settings(directory=tmp_path, environment={"AGENTSYS_MODEL__THREADS": "many", "AGENTSYS_TYPO": "1"})
    message = str(caught.value)
    for part in ("model.nmae", "agentsys.toml", "model.threads", "'many'", "environment", "typo"):
        assert part in message


def test_broken_toml_is_named(tmp_path):
    (tmp_path / "agentsys.toml").write_text("[model\n")
    with pytest.raises(ConfigurationError, match="cannot be read as TOML"):
        load_settings(directory=tmp_path, environment={})


def test_a_named_file_must_exist(tmp_path):
    with pytest.raises(ConfigurationError, match="does not exist"):
        load_settings(environment={"AGENTSYS_CONFIG": str(tmp_path / "absent.toml")})


def test_a_wrong_secret_is_not_quoted(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(directory=tmp_path, environment={"AGENTSYS_SERVER__TOKEN": "hunter2"})
    assert "hunter2" not in str(caught.value) and "server.token" in str(caught.value)


def test_a_wrong_table_is_told_without_its_values(tmp_path):
    (tmp_path / "agentsys.toml").write_text('[a2a.agents.peer]\ntoken = "hunter2-hunter2-hunter2"\n')
    with pytest.raises(ConfigurationError) as caught:
        load_settings(directory=tmp_path, environment={})
    assert "hunter2" not in str(caught.value) and "a2a.agents" in str(caught.value)


def test_a_board_is_a_file_or_a_database_whichever_the_stronger_source_names(tmp_path):
    url = "postgresql://ann:hush@db/agents?board=team"
    (tmp_path / "agentsys.toml").write_text(f'[board]\nurl = "{url}"\n')
    assert load_settings(directory=tmp_path, environment={}).settings.board.location == url
    flag = load_settings({"board.path": "other.db"}, directory=tmp_path, environment={})
    assert flag.settings.board.location == Path("other.db") and flag.sources["board.url"] == "flag"
    flag = load_settings({"board.path": url}, directory=tmp_path / "none", environment={})
    assert flag.settings.board.location == url
    assert "hush" not in repr(flag.settings)


@pytest.mark.parametrize("flags", [{"model.name": "x"}, {"model.threads": 3}])
def test_a_single_value_for_a_table_is_told_with_its_source(tmp_path, flags):
    with pytest.raises(ConfigurationError, match=r"model \(from environment\) is a table, as model\.\w+ \(from flag\)"):
        load_settings(flags, directory=tmp_path, environment={"AGENTSYS_MODEL": "some-model"})


def test_a_single_value_for_a_section_is_told_with_the_keys_that_it_has(tmp_path):
    with pytest.raises(ConfigurationError, match=r"board = 'x\.db' .* table, whose keys are board\.path, board\.url"):
        load_settings(directory=tmp_path, environment={"AGENTSYS_BOARD": "x.db"})


def test_a_part_of_what_is_a_single_value_is_told_whichever_comes_first(tmp_path):
    for names in (["AGENTSYS_POLICY", "AGENTSYS_POLICY__FILE"], ["AGENTSYS_POLICY__FILE", "AGENTSYS_POLICY"]):
        with pytest.raises(ConfigurationError, match=r"policy.*policy\.file"):
            load_settings(directory=tmp_path, environment=dict.fromkeys(names, "x"))
    (tmp_path / "agentsys.toml").write_text('[mcp.servers]\nx = "one"\n[other.table]\nx = 1\n')
    with pytest.raises(ConfigurationError, match=r"mcp\.servers\.x .*given a single value"):
        load_settings(directory=tmp_path, environment={"AGENTSYS_MCP__SERVERS__X__TIMEOUT": "3"})
    with pytest.raises(ConfigurationError, match=r"other \(from .*unknown key"):
        load_settings(directory=tmp_path, environment={})


def test_a_mistaken_key_is_told_with_its_file_and_what_may_be_meant(tmp_path):
    (tmp_path / "agentsys.toml").write_text('[modle]\nname = "x"\n[board]\npth = "x"\n[nothing.like]\nit = 1\n')
    with pytest.raises(ConfigurationError) as caught:
        load_settings(directory=tmp_path, environment={})
    file = tmp_path / "agentsys.toml"
    assert f"modle (from {file}): unknown key, perhaps model is meant" in caught.value.message
    assert f"board.pth (from {file}): unknown key, perhaps board.path is meant" in caught.value.message
    assert f"nothing (from {file}): unknown key." in caught.value.message
    assert not caught.value.remedy.startswith("Run `agentsys config show`"), "which says the same"


def test_the_name_of_a_model_may_hold_dots(tmp_path):
    (tmp_path / "agentsys.toml").write_text('[models."qwen2.5"]\nspec = "a"\n[models.small]\nspec = "b"\n')
    loaded = load_settings(directory=tmp_path, environment={"AGENTSYS_MODELS__SMALL__SLOTS": "3"})
    assert {name: (model.spec, model.slots) for name, model in loaded.settings.models.items()} == {
        "qwen2.5": ("a", None),
        "small": ("b", 3),
    }


@pytest.mark.parametrize(
    "text",
    [
        '[[principals]]\ntoken = "hunter2-hunter2-hunter2"\n',
        '[[mcp.servers]]\nurl = "http://x"\ntoken = "hunter2-hunter2-hunter2"\n',
        '[model]\napikey = "hunter2-hunter2-hunter2"\n',
        '[principals.ann]\ntoken_hash = "hunter2-hunter2-hunter2"\n',
        '[principals.ann]\ntokn = "hunter2-hunter2-hunter2"\n',
    ],
)
def test_a_secret_in_a_wrong_place_is_not_quoted(tmp_path, text):
    (tmp_path / "agentsys.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(directory=tmp_path, environment={})
    assert "hunter2" not in str(caught.value) and "agentsys.toml" in str(caught.value)
    assert "unknown source" not in str(caught.value)
