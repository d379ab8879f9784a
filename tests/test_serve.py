"""The server as programs use it: OpenAI's own client, a real socket, real pictures and videos."""

import json

import httpx2
import openai
import pytest
from make_clips import steady, write_clip
from serving import asking, body, data_url, picture, png, served
from tiny_bundle import MAX_OUTPUT, make_tiny_bundle

from tam_edge.models.street import make_scene
from tam_edge.models.street.video import write_video
from tam_edge.runtime import VideoQA

QUESTION = "how many people?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", steady(80, every_ms=125))


@pytest.fixture(scope="module")
def server(folder, clip):
    with served(folder, directories=[clip.parent]) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with server.client() as client:
        yield client


def ask(client, messages, **options):
    return client.chat.completions.create(model="tiny", messages=messages, **options)


def video(path):
    return {"type": "video_url", "video_url": {"url": str(path)}}


def runtime_answer(folder, source, question=QUESTION, **options):
    with VideoQA.load(folder, threads=1) as qa:
        return qa.ask(qa.open(source), question, **options)


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "tam-edge"
    with pytest.raises(openai.NotFoundError, match="tiny is the one"):
        client.models.retrieve("gpt-4o")


def test_an_image_is_answered_as_the_runtime_does(client, folder, tmp_path):
    (tmp_path / "image.png").write_bytes(png(1))
    expected = runtime_answer(folder, tmp_path / "image.png")
    reply = ask(client, asking(QUESTION, picture(1)))
    assert reply.choices[0].message.content == expected.text
    assert reply.choices[0].finish_reason == expected.ended_by
    usage = reply.usage
    assert usage.prompt_tokens == expected.prompt_tokens > expected.plan.visual_tokens
    assert usage.completion_tokens == expected.answer_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.visual_tokens == expected.plan.visual_tokens
    about = reply.tam_edge
    assert about["task"] == expected.plan.task
    assert about["plan"]["frames"] == 1
    assert about["timings_ms"]["total"] > 0
    assert {frame["source"] for frame in about["evidence"]} == {"messages.0.content.0"}


def test_several_images_are_looked_at_in_order(client):
    reply = ask(client, asking("what happens first?", picture(1), picture(2), picture(3)))
    sources = [frame["source"] for frame in reply.tam_edge["evidence"]]
    assert sources == sorted(sources)
    assert set(sources) <= {f"messages.0.content.{at}" for at in range(3)}
    assert len(set(sources)) > 1


@pytest.mark.parametrize("way", ["path", "file URL", "data URL", "input_video"])
def test_a_video_is_the_same_however_it_comes(client, clip, way):
    part = {
        "path": video(clip.name),
        "file URL": video(f"file://{clip}"),
        "data URL": video(data_url(clip.read_bytes(), "video/mp4")),
        "input_video": {"type": "input_video", "input_video": {"data": data_url(clip.read_bytes()).split(",")[1]}},
    }[way]
    reply = ask(client, asking(QUESTION, part))
    plain = ask(client, asking(QUESTION, video(clip)))
    assert reply.choices[0].message.content == plain.choices[0].message.content
    assert reply.tam_edge["timestamps_seconds"] == plain.tam_edge["timestamps_seconds"]
    assert reply.tam_edge["frames"] > 1


def test_a_follow_up_finds_what_the_question_before_it_left(client, clip):
    messages = asking("what is the dog doing?", video(data_url(clip.read_bytes(), "video/mp4")))
    first = ask(client, messages)
    messages += [first.choices[0].message, {"role": "user", "content": "what does the dog do?"}]
    second = ask(client, messages)
    assert second.tam_edge["timings_ms"]["decode"] == second.tam_edge["timings_ms"]["vision"] == 0
    assert second.usage.prompt_tokens_details.cached_tokens >= second.tam_edge["visual_tokens"] > 0
    assert any("earlier questions" in left["what"] for left in second.tam_edge["rejections"])  # `tiny` knows none


def test_an_answer_streams(client, clip):
    whole = ask(client, asking(QUESTION, video(clip)))
    with ask(client, asking(QUESTION, video(clip)), stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].tam_edge["plan"]["frames"] == whole.tam_edge["frames"]
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-2].tam_edge["answer"] == text
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert not any(chunk.usage for chunk in chunks[:-1])


def test_events_end_as_openai_says(server, clip):
    reply = server.post(body(asking(QUESTION, video(clip)), stream=True))
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, end, rest = reply.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    assert all(json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk" for event in events)
    assert not any("usage" in json.loads(event.removeprefix("data: ")) for event in events)


def test_the_seed_decides_what_is_drawn(client):
    def drawn(seed):
        reply = ask(client, asking(QUESTION, picture(1)), seed=seed, temperature=2.0)
        return reply.choices[0].message.content

    assert drawn(7) == drawn(7)
    assert len({drawn(seed) for seed in range(4)}) > 1


def test_stop_ends_the_answer_before_it(client):
    whole = ask(client, asking(QUESTION, picture(1))).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    for options in ({"stop": stop}, {"stop": ["never said by it", stop]}):
        reply = ask(client, asking(QUESTION, picture(1)), **options)
        assert reply.choices[0].message.content == whole[: whole.index(stop)].rstrip()
        assert reply.choices[0].finish_reason == "stop"


def test_a_short_answer_says_why_it_ended(client):
    reply = ask(client, asking(QUESTION, picture(1)), max_completion_tokens=2)
    assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (2, "length")
    reply = ask(client, asking(QUESTION, picture(1)), max_tokens=4096)
    assert reply.usage.completion_tokens <= MAX_OUTPUT
    assert any(left["what"] == "max_tokens 4096" for left in reply.tam_edge["rejections"])


def test_wishes_of_our_own(client, clip):
    wishes = {"tam_edge": {"frames": 2, "grid": 3, "start": 2.0, "end": 6.0}}
    reply = ask(client, asking(QUESTION, video(clip)), extra_body=wishes)
    assert (reply.tam_edge["frames"], reply.tam_edge["grid"]) == (2, 3)
    assert all(2 <= seconds <= 6 for seconds in reply.tam_edge["timestamps_seconds"])
    with pytest.raises(openai.BadRequestError, match="grid"):
        ask(client, asking(QUESTION, video(clip)), extra_body={"tam_edge": {"grid": 77}})


def test_a_system_message_is_left_out_and_the_reply_says_so(client):
    messages = [{"role": "system", "content": "Answer in verse."}, *asking(QUESTION, picture(1))]
    plain, reply = ask(client, asking(QUESTION, picture(1))), ask(client, messages)
    assert reply.choices[0].message.content == plain.choices[0].message.content
    assert "system message" in {left["what"] for left in reply.tam_edge["rejections"]}


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_p": 0.5}, "top_p"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"extra_body": {"nonsense": 1}}, "nonsense"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ""}, "stop"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client, options, param):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, asking(QUESTION, picture(1)), **options)
    assert refused.value.param.partition(".")[0] == param
    assert refused.value.type == "invalid_request_error"


def test_values_that_change_nothing_are_taken(client):
    options = {"n": 1, "top_p": 1, "presence_penalty": 0, "tools": [], "response_format": {"type": "text"}, "user": "u"}
    assert ask(client, asking(QUESTION, picture(1)), **options).choices[0].message.content


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "user", "content": "hello"}], "no picture or video"),
        ([*asking(QUESTION, picture(1)), {"role": "assistant", "content": "3"}], "last message"),
        ([{"role": "user", "content": [picture(1)]}], "no text"),
        (asking("x" * 5000, picture(1)), "5,000 characters"),
        ([{"role": "tool", "content": "x", "tool_call_id": "1"}], "tool"),
    ],
)
def test_conversations_that_ask_nothing_are_refused(client, messages, text):
    with pytest.raises(openai.BadRequestError, match=text):
        ask(client, messages)


def test_another_model_is_not_found(server):
    reply = server.post(body(asking(QUESTION, picture(1)), model="gpt-4o"))
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "model_not_found"


def test_metrics_count_what_happened(server, client):
    ask(client, asking(QUESTION, picture(1)))
    reply = httpx2.get(f"{server.url}/metrics")
    lines = dict(line.rsplit(" ", 1) for line in reply.text.splitlines() if not line.startswith("#"))
    assert float(lines['tam_edge_questions_total{outcome="answered"}']) >= 1
    assert float(lines['tam_edge_requests_total{path="/v1/chat/completions",status="200"}']) >= 1
    assert 0 < float(lines["tam_edge_memory_peak_bytes"]) < float(lines["tam_edge_memory_limit_bytes"])
    assert float(lines['tam_edge_tokens_total{kind="visual"}']) > 0


def test_the_bundled_model_answers_about_a_street(tmp_path):
    scene = make_scene(901477)  # models/street/sample.mp4
    write_video(scene, tmp_path / "street.mp4", fps=8)
    with served(directories=[tmp_path]) as server, server.client() as client:
        [model] = client.models.list()
        messages = asking("how many people?", video("street.mp4"))
        reply = client.chat.completions.create(model=model.id, messages=messages)
        assert reply.choices[0].message.content == "3"
        assert {frame["source"] for frame in reply.tam_edge["evidence"]} == {"street.mp4"}
        messages += [reply.choices[0].message, {"role": "user", "content": "what is the dog doing?"}]
        follow = client.chat.completions.create(model=model.id, messages=messages, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in follow) == "sleeping"
