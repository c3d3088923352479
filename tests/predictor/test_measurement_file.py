"""Measurement files: what a line may say, what each wrong line is told, and what a key says of a target."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.model_ref import sha256_of
from devices.statistics import median, standard_error_of_median
from devices.target import Hardware, Runtime, Target
from predictor.errors import LinesRejected, PredictorError
from predictor.measured_targets import StatedHardware, measured_targets, runtime_of_key
from predictor.measurement_file import MeasurementLine, line_of, read_lines, text_of, write_lines
from predictor.model_files import ModelLibrary
from predictor.reading.reader import read_graph
from predictor.reference_set import reference_models
from tests.predictor.onnx_graphs import five_nodes
from tests.predictor.synthetic_target import HARDWARE, RUNTIME

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "predicting.md"
GOOD = {"model": "mixed-rows", "target": "phone/tflite-2.20/gpu", "median_ms": 4.5}
ROWS = next(model for model in reference_models() if model.name == "mixed-rows")


def file_of(folder: Path, *lines: object) -> Path:
    """A measurement file; texts stand as they are."""
    path = folder / "measured.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_raw_samples_say_what_their_median_and_its_error_say(tmp_path: Path) -> None:
    samples = (1_010_000, 1_000_000, 1_060_000, 1_020_000, 1_000_500)
    error_ms = standard_error_of_median([samples]) * 1e-6
    file = file_of(
        tmp_path,
        {"model": "mixed-rows", "target": "t", "samples_ns": samples},
        {"model": "mixed-rows", "target": "t", "median_ms": 1.01, "standard_error_ms": error_ms},
        {"model": "mixed-rows", "target": "t", "median_ms": 2.02, "samples_ns": samples},
    )
    raw, reduced, rescaled = (entry.line.latency_ms() for entry in read_lines(file))
    assert raw == pytest.approx((median(samples) * 1e-6, error_ms))
    assert raw == pytest.approx(reduced)
    assert rescaled == pytest.approx((2.02, 2 * error_ms))  # a median that is given stands


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    line = line_of(
        model_sha256=sha256_of(ROWS.model),
        graph_digest="ab" * 32,
        input_shapes=ROWS.input_shapes,
        target_key="synthetic/onnxruntime-1.32/cpu/t1",
        runtime=RUNTIME,
        hardware=HARDWARE,
        median_ms=4.25,
        standard_error_ms=0.125,
        samples_ns=(4_250_000, 4_250_001),
        name="rows, again",
    )
    write_lines(tmp_path / "out.jsonl", [line, line])
    entries = read_lines(tmp_path / "out.jsonl")
    assert [entry.line for entry in entries] == [line, line]
    assert text_of(line).count("\n") == 1
    target = measured_targets(entries, ModelLibrary())["synthetic/onnxruntime-1.32/cpu/t1"]
    assert (target.facts.runtime, target.facts.hardware) == (RUNTIME, HARDWARE)
    assert [(one.name, one.median_ms) for one in target.observations] == [("rows, again", 4.25)] * 2


def test_the_documented_lines_are_lines_and_every_field_is_documented(tmp_path: Path) -> None:
    section = DOCUMENT.read_text().split("## From files")[1].split("\n## ")[0]
    examples = re.findall(r"^\{.*\}$", section, re.MULTILINE)
    assert len(read_lines(file_of(tmp_path, *examples))) == 2
    fields = (*MeasurementLine.model_fields, *Runtime.model_fields, *Hardware.model_fields)
    assert [field for field in fields if f"`{field}`" not in section] == []


def test_editors_may_mark_space_and_end_lines_their_way(tmp_path: Path) -> None:
    file = tmp_path / "windows.jsonl"
    text = json.dumps(GOOD).encode()
    file.write_bytes(b"\xef\xbb\xbf" + text + b"\r\n\r\n  " + text + b"\r\n")
    assert [entry.number for entry in read_lines(file)] == [1, 3]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{cut off", "the line is .*not JSON|invalid JSON"),
        ("[1, 2]", "one JSON object"),
        ("\\xff", "one JSON object"),
        ({**GOOD, "model": ""}, "model is .*give a path, a SHA-256"),
        ({"target": "t", "median_ms": 1}, "model is missing; give a path"),
        ({"model": "mixed-rows", "median_ms": 1}, "target is missing; give a key"),
        ({"model": "mixed-rows", "target": "t"}, "neither samples_ns nor median_ms is there; give one"),
        ({**GOOD, "median_ms": -1}, "median_ms is -1: .*greater than 0; give milliseconds above 0"),
        ({**GOOD, "median_ms": "4.5"}, 'median_ms is "4.5": .*valid number'),
        ({**GOOD, "median_ms": float("inf")}, "median_ms is inf: .*finite"),
        ({**GOOD, "median_ms": float("nan")}, "median_ms is nan"),
        ({**GOOD, "standard_error_ms": -0.1}, "standard_error_ms is -0.1: .*at least 0"),
        ({**GOOD, "samples_ns": []}, r"samples_ns is \(\)|samples_ns is \[\]"),
        ({**GOOD, "samples_ns": [10, 0]}, r"samples_ns\.1 is 0: .*whole nanoseconds above 0"),
        ({**GOOD, "samples_ns": [10.5]}, r"samples_ns\.0 is 10\.5: .*integer"),
        ({**GOOD, "input_shapes": {"x": [1, 0]}}, r"input_shapes\.x\.1 is 0: .*at least 1 by input"),
        ({**GOOD, "graph_digest": "abc"}, 'graph_digest is "abc": .*64 hexadecimal digits'),
        ({**GOOD, "runtime": "tflite"}, 'runtime is "tflite": .*fields of a runtime'),
        (
            {**GOOD, "sample_ns": [1]},
            "sample_ns is no field of a measurement; fields are model, graph_digest",
        ),
    ],
)
def test_a_malformed_line_is_named_with_field_value_and_remedy(
    line: object, said: str, tmp_path: Path
) -> None:
    with pytest.raises(LinesRejected, match=rf"(?s)measured\.jsonl, line 3: .*({said})"):
        read_lines(file_of(tmp_path, GOOD, GOOD, line, GOOD))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({**GOOD, "model": "nowhere.onnx"}, "'nowhere.onnx': no such file in .*--models"),
        ({**GOOD, "model": "0" * 64}, "no file has this SHA-256.*--models"),
        ({**GOOD, "model": "broken.onnx"}, "'broken.onnx': .*not an ONNX file"),
        ({**GOOD, "input_shapes": {"rows": [1, 2, 3]}}, "'mixed-rows': .*fixed at 32"),
        ({**GOOD, "target": "u/e", "runtime": {"threads": 0}}, r"runtime\.threads is 0: .*fields of a runt"),
        ({**GOOD, "target": "u/e", "runtime": {"thread": 2}}, r"runtime\.thread is no field.*threads"),
        ({**GOOD, "target": "u/e", "hardware": {"isa_flags": "avx"}}, r'hardware\.isa_flags is "avx"'),
        ({**GOOD, "hardware": {"physical_cores": 2}}, "physical_cores is 2, but .*line 1 says 4 of the same"),
        ({**GOOD, "target": "u/e/t9999"}, r"the target's key: runtime\.threads is 9999"),
    ],
)
def test_a_line_that_means_nothing_is_named_too(line: object, said: str, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    first = {**GOOD, "hardware": {"physical_cores": 4}}
    entries = read_lines(file_of(tmp_path, first, GOOD, line))
    where = "" if "key:" in said else r"measured\.jsonl, line 3: .*"
    with pytest.raises(LinesRejected, match=rf"(?s){where}({said})"):
        measured_targets(entries, ModelLibrary())


def test_all_bad_lines_are_named_at_once_up_to_ten(tmp_path: Path) -> None:
    with pytest.raises(LinesRejected) as caught:
        read_lines(file_of(tmp_path, *["{"] * 13, GOOD))
    lines = str(caught.value).splitlines()
    assert [f"line {number}:" in line for number, line in enumerate(lines[:10], start=1)] == [True] * 10
    assert lines[10:] == ["and 3 more problems"]
    with pytest.raises(LinesRejected, match="holds no measurement"):
        read_lines(file_of(tmp_path, "", " "))


def test_a_model_is_found_by_path_bytes_graph_and_name(tmp_path: Path) -> None:
    folder = tmp_path / "nets"
    (folder / "below").mkdir(parents=True)
    dynamic = five_nodes()
    dynamic.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    model = dynamic.SerializeToString()
    (folder / "below" / "five.onnx").write_bytes(model)
    (folder / "below" / "junk.onnx").write_bytes(b"junk")
    sizes = {"x": (2, 2, 8, 8)}
    graph = read_graph(model, sizes)
    library = ModelLibrary([folder])
    for called in ("below/five.onnx", str(folder / "below" / "five.onnx"), sha256_of(model), graph.digest):
        found = library.find(called, sizes, beside=tmp_path)
        assert (found.name, found.graph) == ("five.onnx", graph)
    lost = library.find("lost.onnx", sizes, beside=tmp_path, graph_digest=graph.digest)
    assert lost.graph == graph
    with pytest.raises(PredictorError, match="without a size"):
        library.find("below/five.onnx", {}, beside=tmp_path)
    (folder / "below" / "manifest.json").write_text(
        json.dumps({"five.onnx": {"input_shapes": {"x": [2, 2, 8, 8]}}})
    )
    assert ModelLibrary().find("five.onnx", {}, beside=folder / "below").graph == graph
    with pytest.raises(PredictorError, match="is not a folder"):
        ModelLibrary([tmp_path / "nowhere"])


def test_reference_models_are_known_without_files(tmp_path: Path) -> None:
    library = ModelLibrary()
    graph = library.find("mixed-rows", {}, beside=tmp_path).graph
    digests = (sha256_of(ROWS.model).upper(), graph.digest)
    for called in ("mixed-rows.onnx", "/elsewhere/mixed-rows.onnx", *digests):
        assert library.find(called, {}, beside=tmp_path).graph is graph
    (tmp_path / "mixed-rows.onnx").write_bytes(five_nodes().SerializeToString())
    own = library.find("mixed-rows.onnx", {}, beside=tmp_path)
    assert own.graph.digest != graph.digest  # a file that is there stands before a name


@pytest.mark.parametrize(
    ("key", "engine", "version", "provider", "threads", "precision"),
    [
        ("rpi5-8gb/onnxruntime-1.31/cpu/t4", "onnxruntime", "1.31", "cpu", 4, "native"),
        ("vm/openvino-2026.4/cpu/t2/bf16", "openvino", "2026.4", "cpu", 2, "bf16"),
        ("any-key/you-like/cpu/t4", "you-like", "unknown", "cpu", 4, "native"),
        ("Pixel 6/TFLite-2.20/GPU/fp16", "tflite", "2.20", "gpu", 1, "fp16"),
        ("board/rknn/npu", "rknn", "unknown", "npu", 1, "native"),
        ("box/my-engine/fast", "my-engine", "unknown", "cpu", 1, "native"),
        ("iphone", "iphone", "unknown", "cpu", 1, "native"),
        ("///", "unknown", "unknown", "cpu", 1, "native"),
    ],
)
def test_a_key_says_what_it_can(
    key: str, engine: str, version: str, provider: str, threads: int, precision: str, tmp_path: Path
) -> None:
    entries = read_lines(file_of(tmp_path, {**GOOD, "target": key}))
    facts = measured_targets(entries, ModelLibrary())[key].facts
    assert facts.key == key
    assert facts.runtime == Runtime(
        engine=engine, version=version, provider=provider, threads=threads, precision=precision
    )
    assert facts.hardware.cpu_model == "unknown"
    assert facts.hardware.logical_cores == threads


@settings(max_examples=100, deadline=None)
@given(
    engine=st.from_regex(r"[a-z][a-z_]{0,9}", fullmatch=True),
    version=st.from_regex(r"[1-9][0-9]{0,3}\.[0-9]{1,2}\.[0-9]", fullmatch=True),
    provider=st.sampled_from(("cpu", "cuda", "tensorrt")),
    threads=st.integers(1, 1024),
    precision=st.sampled_from(("native", "fp16", "bf16", "int8")),
    power_mode=st.sampled_from((None, "15w", "max-n")),
)
def test_our_own_keys_are_understood_in_full(
    engine: str, version: str, provider: str, threads: int, precision: str, power_mode: str | None
) -> None:
    runtime = Runtime(
        engine=engine, version=version, provider=provider, threads=threads, precision=precision,
        power_mode=power_mode,
    )  # fmt: skip
    understood = Runtime.model_validate(runtime_of_key(Target(device_key="device-1.2", runtime=runtime).key))
    assert understood.model_copy(update={"version": version}) == runtime
    assert understood.key == runtime.key


def test_facts_are_said_once_for_a_target_and_a_file_of_facts_stands_before_them(tmp_path: Path) -> None:
    entries = read_lines(
        file_of(
            tmp_path,
            {**GOOD, "runtime": {"threads": 3}},
            {**GOOD, "hardware": {"architecture": "aarch64", "memory_bytes": 1 << 32}},
            {**GOOD, "target": "other/engine"},
        )
    )
    stated = StatedHardware(GOOD["target"], "facts.json", {"architecture": "riscv64"})  # type: ignore[arg-type]
    targets = measured_targets(entries, ModelLibrary(), stated)
    phone, other = (targets[key].facts for key in (GOOD["target"], "other/engine"))  # type: ignore[index]
    assert (phone.runtime.threads, phone.runtime.provider) == (3, "gpu")
    assert (phone.hardware.architecture, phone.hardware.memory_bytes) == ("riscv64", 1 << 32)
    assert phone.hardware.isa_flags == ()  # not those of an unknown x86 core
    assert "avx2" in other.hardware.isa_flags
    wrong = StatedHardware(GOOD["target"], "facts.json", {"physical_cores": 0})  # type: ignore[arg-type]
    with pytest.raises(LinesRejected, match=r"facts\.json: hardware\.physical_cores is 0"):
        measured_targets(entries, ModelLibrary(), wrong)
