"""What a request and a reply look like: OpenAI's chat completions, as far as they mean something here.

A field that would change the answer and cannot is refused by name, unless it holds the value that changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_MESSAGES = 512
UNSUPPORTED = {
    "n": "one question gets one answer",
    "tools": "this model calls none",
    "tool_choice": "this model calls no tools",
    "functions": "this model calls none",
    "function_call": "this model calls no functions",
    "logprobs": "probabilities are not given out",
    "top_logprobs": "probabilities are not given out",
    "logit_bias": "the model's scores are taken as they are",
    "response_format": "answers are plain text",
    "audio": "answers are plain text",
    "modalities": "answers are plain text",
    "top_p": "words are drawn by temperature alone",
    "presence_penalty": "words are drawn by temperature alone",
    "frequency_penalty": "words are drawn by temperature alone",
    "store": "nothing is stored",
}
"""Fields that are known and refused, and why; each may hold the value that changes nothing."""


class Strict(BaseModel):
    """JSON as it should be: no other types, no other fields."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class TextPart(Strict):
    """Text."""

    type: Literal["text"]
    text: str


class Url(Strict):
    """Where a picture or video is."""

    url: str = Field(description="data:...;base64,..., a file below a served directory, or http(s) where allowed")
    detail: Literal["auto", "low", "high"] = Field("auto", description="left to the plan")


class ImagePart(Strict):
    """A picture."""

    type: Literal["image_url"]
    image_url: Url


class VideoPart(Strict):
    """A video."""

    type: Literal["video_url"]
    video_url: Url


class InputVideo(Strict):
    """A video by its bytes."""

    data: str = Field(description="base64")
    format: str | None = Field(None, description="not needed: the bytes tell")


class InputVideoPart(Strict):
    """A video by its bytes."""

    type: Literal["input_video"]
    input_video: InputVideo


Part = Annotated[TextPart | ImagePart | VideoPart | InputVideoPart, Field(discriminator="type")]


class SystemMessage(Strict):
    """What a system says; a bundle's prompt is its own, so it is left out, and the reply says so."""

    role: Literal["system", "developer"]
    content: str | list[TextPart]
    name: str | None = None


class UserMessage(Strict):
    """A question, or what it is about."""

    role: Literal["user"]
    content: str | list[Part]
    name: str | None = None


class AssistantMessage(Strict):
    """An earlier answer."""

    role: Literal["assistant"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: None = None
    audio: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(Strict):
    """How an answer streams."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class PlainText(Strict):
    """The only format."""

    type: Literal["text"]


class Wishes(Strict):
    """What the runtime can be asked for beside OpenAI's fields; as options of `tam-edge run`."""

    deadline: str | None = Field(None, description='most time to the first word, such as "3s"')
    strategy: str | None = None
    frames: int | None = Field(None, ge=1)
    grid: int | None = Field(None, ge=1)
    start: float | None = Field(None, ge=0, description="seconds")
    end: float | None = Field(None, ge=0, description="seconds")


class ChatRequest(Strict):
    """A conversation about pictures and videos; the last message asks."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, takes the likeliest word")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    tam_edge: Wishes = Field(default_factory=lambda: Wishes.model_validate({}))
    user: str | None = None
    metadata: dict[str, str] | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: Literal["none", "auto"] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    response_format: PlainText | None = None
    audio: None = None
    modalities: list[Literal["text"]] | None = None
    top_p: Annotated[float, Field(ge=1, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    store: Literal[False] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def most_tokens(self) -> int | None:
        """Longest answer asked for."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class PromptTokens(BaseModel):
    """What the prompt consisted of."""

    cached_tokens: int
    visual_tokens: int


class Usage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class ReplyMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"]
    content: str


class Choice(BaseModel):
    """The one answer."""

    index: int
    message: ReplyMessage
    finish_reason: Literal["stop", "length"]


class ChatReply(BaseModel):
    """An answer, with what was looked at and what it cost in `tam_edge`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    tam_edge: dict[str, Any]


class Model(BaseModel):
    """A bundle."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    """The bundles: one."""

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """That the server lives."""

    status: Literal["ok"]
    model: str
    waiting: int


class ErrorDetail(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """OpenAI's error object."""

    error: ErrorDetail
