"""What a manifest may say, and the words with which it is refused."""

import json

import pytest
from pydantic import ValidationError

from tam_edge.runtime.manifest import LanguageSpec, Manifest, PromptTexts, manifest_schema
from tam_edge.runtime.routing import TAM_ROUTING, Routing
from tam_edge.runtime.schema import EngineSpec, FileSpec, named_files

HASH = "0123456789abcdef" * 4
PROMPT = {
    "system": "<|im_start|>user\n",
    "after_visual": "\n{metadata} {instruction}\n{question}<|im_end|>\n",
    "metadata": "{frames} frames, {duration_seconds:.0f} s, one every {interval_seconds:.2f} s.",
    "instruction": "{task_name}: {phrase}.",
}


def refusal(model, value):
    with pytest.raises(ValidationError) as caught:
        model.model_validate_json(json.dumps(value), strict=True)
    first = caught.value.errors()[0]
    return ".".join(map(str, first["loc"])), first["msg"]


@pytest.mark.parametrize(
    "file",
    [
        "",
        "/etc/passwd",
        "../weights.onnx",
        "parts/../../weights.onnx",
        "..",
        "C:/weights.onnx",
        "C:weights.onnx",
        "parts\\weights.onnx",
        "\\\\server\\weights.onnx",
        "weights.onnx\0.txt",
    ],
)
def test_a_path_that_could_leave_the_folder_is_refused(file):
    field, message = refusal(FileSpec, {"file": file, "sha256": HASH, "size_bytes": 1})
    assert field == "file"
    assert "inside the bundle folder" in message


def test_paths_below_the_folder_are_fine():
    for file in ("a.onnx", "parts/a.onnx", "..a", "a..b/c"):
        assert FileSpec(file=file, sha256=HASH, size_bytes=1).file == file


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sha256": HASH[1:]}, "sha256"),
        ({"sha256": HASH.upper()}, "sha256"),
        ({"sha256": HASH + "\n"}, "sha256"),
        ({"size_bytes": 0}, "size_bytes"),
        ({"size_bytes": "12"}, "size_bytes"),
        ({"size_bytes": True}, "size_bytes"),
        ({"peak_bytes": -1}, "peak_bytes"),
        ({"peak_bytes": None}, "peak_bytes"),
        ({"backend": "pickle"}, "backend"),
        ({"precision": ""}, "precision"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_engine_is_described_exactly(change, field):
    engine = {
        "file": "a.onnx",
        "sha256": HASH,
        "size_bytes": 1,
        "backend": "onnx",
        "precision": "fp32",
        "peak_bytes": 0,
    }
    assert EngineSpec.model_validate_json(json.dumps(engine), strict=True).built_for == "any"
    assert refusal(EngineSpec, engine | change)[0] == field


@pytest.mark.parametrize(
    ("field", "template", "said"),
    [
        ("after_visual", "{metadata}", "exactly once"),
        ("after_visual", "{question}{question}", "exactly once"),
        ("after_visual", "{{question}}", "exactly once"),
        ("after_visual", "{question:.2f}", "exactly once"),
        ("after_visual", "{question}{system}", "unknown field {system}"),
        ("after_visual", "{question}{}", "unknown field {}"),
        ("after_visual", "{question}{", "'{'"),
        ("metadata", "{frames.__class__}", "unknown field {frames.__class__}"),
        ("metadata", "{frames[0]}", "unknown field"),
        ("metadata", "{frames!r}", "may be written plain"),
        ("metadata", "{frames:999999999}", "may be written plain"),
        ("metadata", "{frames:{duration_seconds}}", "may be written plain"),
        ("metadata", "{duration_seconds:d}", "Unknown format code"),
        ("instruction", "{task_name:.2f}", "Unknown format code"),
        ("instruction", "{question}", "unknown field"),
        ("system", "x" * 8001, "at most 8000"),
        ("follow_up", "", "exactly once"),
        ("follow_up", "{question}{answer}", "unknown field {answer}"),
    ],
)
def test_a_template_that_would_fail_or_reach_out_is_refused(field, template, said):
    where, message = refusal(PromptTexts, PROMPT | {field: template})
    assert where == field
    assert said in message


def test_good_templates_are_taken_as_they_are():
    texts = PromptTexts.model_validate(PROMPT)
    assert texts.model_dump() == PROMPT | {"follow_up": None}
    assert PromptTexts.model_validate(PROMPT | {"follow_up": "\n{question}{{"}).follow_up == "\n{question}{{"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ladder": []}, "ladder"),
        ({"confidence_threshold": 1.5}, "confidence_threshold"),
        ({"frames_per_second": 0.0}, "frames_per_second"),
        ({"max_frames": 0}, "max_frames"),
        ({"phrases": {"high": "", "more": "", "balanced": "", "none": ""}}, "phrases.none.[key]"),
        ({"max_visual_tokens": 0}, "max_visual_tokens"),
    ],
)
def test_a_rule_set_has_limits(change, field):
    good = json.loads(TAM_ROUTING.model_dump_json())
    assert Routing.model_validate_json(json.dumps(good), strict=True) == TAM_ROUTING
    assert refusal(Routing, good | change)[0] == field


def test_numbers_that_are_none_are_refused():
    good = TAM_ROUTING.model_dump_json()
    for number in ("NaN", "Infinity", "-Infinity"):
        with pytest.raises(ValidationError, match="short_seconds"):
            Routing.model_validate_json(good.replace('"short_seconds":30.0', f'"short_seconds":{number}'), strict=True)


def test_a_manifest_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        TAM_ROUTING.max_frames = 3


def test_every_file_is_found_under_the_name_of_its_field():
    file = {"file": "t.json", "sha256": HASH, "size_bytes": 1}
    engine = {**file, "backend": "gguf", "precision": "f16", "peak_bytes": 0}
    language = LanguageSpec.model_validate(
        {
            "engines": [engine, engine | {"file": "u.gguf"}],
            "tokenizer": file,
            "embedding_width": 8,
            "context": 64,
            "max_output_tokens": 8,
        }
    )
    found = named_files({"language": language, 27: (FileSpec.model_validate(file),)})
    assert {field: spec.file for field, spec in found.items()} == {
        "language.engines.0": "t.json",
        "language.engines.1": "u.gguf",
        "language.tokenizer": "t.json",
        "27.0": "t.json",
    }


def test_the_published_schema_explains_every_field():
    schema = manifest_schema()
    assert json.loads(json.dumps(schema)) == schema
    models = [schema, *schema["$defs"].values()]
    silent = [
        (model["title"], name)
        for model in models
        for name, field in model["properties"].items()
        if not field.get("description")
    ]
    assert silent == []
    assert schema["properties"].keys() == Manifest.model_fields.keys()
    assert not any(model["additionalProperties"] for model in models)
