"""`agentsys bench compare`: a change counts only where its interval leaves out 1, and unlike machines are refused."""

import json

import pytest
from typer.testing import CliRunner

from agentsys.benchmarks.compare import Incomparable, change_of, check_image, compare, load_result, plot
from agentsys.cli.app import app

MACHINE = {"processor": "A", "cores": 2, "memory_gib": 23.5}


def result(name="engine", machine=MACHINE, **repetitions):
    return {"name": name, "fingerprint": machine, "repetitions": repetitions}


def test_a_real_change_is_told_from_noise():
    steady, noisy = [100.0, 101, 99, 100, 102], [100.0, 140, 70, 95, 130]
    assert change_of("arm", steady, [value * 1.3 for value in steady]).verdict == "higher"
    assert change_of("arm", steady, [value / 1.3 for value in steady]).verdict == "lower"
    assert change_of("arm", noisy, [value * 1.02 for value in noisy]).verdict == "no difference shown"
    change = change_of("arm", steady, [value * 2 for value in steady])
    assert change.low <= change.ratio <= change.high
    assert change.ratio == pytest.approx(2.0)


def test_only_arms_of_both_are_compared():
    changes = compare(result(a=[1.0], b=[2.0]), result(b=[3.0], c=[4.0]))
    assert [change.arm for change in changes] == ["b"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (result(name="board", a=[1.0]), "one file is of engine"),
        (result(machine=MACHINE | {"cores": 64}, a=[1.0]), "cores 2 and 64"),
        (result(b=[1.0]), "no arm in common"),
    ],
)
def test_what_says_nothing_about_each_other_is_refused(other, said):
    with pytest.raises(Incomparable, match=f"(?i){said}"):
        compare(result(a=[1.0]), other)


def test_the_command_compares_draws_and_refuses(tmp_path):
    before, after, picture = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "change.png"
    before.write_text(json.dumps(result(a=[1.0, 1.1, 0.9])))
    after.write_text(json.dumps(result(a=[2.0, 2.1, 1.9])))
    done = CliRunner().invoke(app, ["bench", "compare", str(before), str(after), "--json", "--plot", str(picture)])
    assert (done.exit_code, json.loads(done.stdout)[0]["verdict"]) == (0, "higher")
    assert picture.read_bytes().startswith(b"\x89PNG")
    after.write_text("[]")
    assert CliRunner().invoke(app, ["bench", "compare", str(before), str(after)]).exit_code == 2
    assert CliRunner().invoke(app, ["bench", "compare", str(before)]).exit_code == 2


def test_a_plot_needs_no_display(tmp_path):
    before, after = result(a=[1.0, 2.0], b=[3.0]), result(a=[1.5], b=[2.0])
    plot(compare(before, after), before, after, tmp_path / "change.svg")
    assert (tmp_path / "change.svg").read_text().count("<svg")


def test_a_file_that_is_no_result_is_named(tmp_path):
    with pytest.raises(Incomparable, match=r"nothing\.json"):
        load_result(tmp_path / "nothing.json")


@pytest.mark.parametrize("name", ["change", "change.txt", "change.pgf"])
def test_an_image_that_cannot_be_drawn_is_refused_before_the_work(name, tmp_path):
    missing = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    done = CliRunner().invoke(app, ["bench", "compare", *missing, "--plot", str(tmp_path / name)])
    assert (done.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "AGS-0100" in done.stderr and name in done.stderr and ".pdf, .png" in done.stderr
    for suffix in (".PNG", ".svg", ".pdf", ".jpg"):
        check_image(tmp_path / f"change{suffix}")


@pytest.mark.parametrize("steady", [[0.0, 0, 0], [0.0, 0, 1, 1, 1]])
def test_beside_a_median_of_0_there_is_no_ratio(steady, tmp_path):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, values in zip(files, (steady, [1.0, 1, 2]), strict=True):
        file.write_text(json.dumps(result(recall=values, other=values, never=[])))
    told = CliRunner().invoke(app, ["bench", "compare", *map(str, files), "--json"])
    assert {(one["ratio"], one["verdict"]) for one in json.loads(told.stdout)} == {(None, "no ratio to 0")}
    assert "no ratio to 0" in CliRunner().invoke(app, ["bench", "compare", *map(str, files)]).stdout
    (change,) = compare(result(recall=[1.0, 1, 1]), result(recall=[0.0, 0, 0]))
    assert (change.ratio, change.verdict) == (0, "lower")


@pytest.mark.parametrize("fault", [{"fingerprint": None}, {"repetitions": {"a": ["fast"]}}, {"repetitions": [1.0]}])
def test_a_file_of_another_form_is_no_result(fault, tmp_path):
    (tmp_path / "other.json").write_text(json.dumps(result(a=[1.0]) | fault))
    with pytest.raises(Incomparable, match=r"other\.json"):
        load_result(tmp_path / "other.json")
