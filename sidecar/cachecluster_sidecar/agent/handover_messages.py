"""Hand-over messages, answers and news as JSON, checked. Pure.

POST /v1/handover    {"partition", "epoch", "primary", "successor", "offset", "replid", "token", "required"}
                     -> {"word": {"copy", "epoch", "offset", "following", "takenOverEpoch"}}
POST /v1/taken-over  {"news": {"<partition>": {"epoch", "copy"}}} -> {}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cachecluster_core.agent_view import HandoverMessage, HandoverWord, TakenOver
from cachecluster_core.hashring import CopyId

MAX_PARTITIONS = 512
MAX_REQUIRED = 64
MAX_TEXT = 200
MAX_NUMBER = 1 << 63


def is_answered(message: HandoverMessage, word: HandoverWord) -> bool:
    """The word tells the primary what it asked, or that waiting is of no use: then it is answered at once."""
    if word.epoch > message.epoch or word.copy != message.successor:
        return True
    if message.token:
        return word.taken_over_epoch >= message.epoch
    if word.epoch < message.epoch:
        return False
    return word.offset >= message.offset if message.offset >= 0 else word.following


def message_to_json(message: HandoverMessage) -> dict[str, Any]:
    """The body of a hand-over message."""
    return {
        "partition": message.partition,
        "epoch": message.epoch,
        "primary": str(message.primary),
        "successor": str(message.successor),
        "offset": message.offset,
        "replid": message.replid,
        "token": message.token,
        "required": [str(copy) for copy in message.required],
    }


def message_from_json(data: Any) -> HandoverMessage:
    """The reverse. ValueError names what is missing, malformed or too long."""
    required = _field(data, "required", list)
    if len(required) > MAX_REQUIRED:
        raise ValueError(f"required has {len(required)} copies, more than {MAX_REQUIRED}")
    message = HandoverMessage(
        partition=_number(data, "partition", 0, MAX_PARTITIONS - 1),
        epoch=_number(data, "epoch", 1),
        primary=_copy(_field(data, "primary", str)),
        successor=_copy(_field(data, "successor", str)),
        offset=_number(data, "offset", -1),
        replid=_text(_field(data, "replid", str)),
        token=_field(data, "token", bool),
        required=tuple(_copy(copy) for copy in required),
    )
    if message.token and message.offset < 0:
        raise ValueError("a token without an offset")
    return message


def word_to_json(word: HandoverWord) -> dict[str, Any]:
    """The body of an answer."""
    return {
        "word": {
            "copy": str(word.copy),
            "epoch": word.epoch,
            "offset": word.offset,
            "following": word.following,
            "takenOverEpoch": word.taken_over_epoch,
        }
    }


def word_from_json(data: Any) -> HandoverWord:
    """The reverse. ValueError when it is not one."""
    word = _field(data, "word", dict)
    return HandoverWord(
        copy=_copy(_field(word, "copy", str)),
        epoch=_number(word, "epoch", 0),
        offset=_number(word, "offset", 0),
        following=_field(word, "following", bool),
        taken_over_epoch=_number(word, "takenOverEpoch", 0),
    )


def news_to_json(news: Mapping[int, TakenOver]) -> dict[str, Any]:
    """The body of news."""
    told = {str(partition): {"epoch": one.epoch, "copy": str(one.copy)} for partition, one in news.items()}
    return {"news": told}


def news_from_json(data: Any) -> dict[int, TakenOver]:
    """The reverse. ValueError when it is not one."""
    news = _field(data, "news", dict)
    if len(news) > MAX_PARTITIONS:
        raise ValueError(f"news of {len(news)} partitions, more than {MAX_PARTITIONS}")
    return {_partition(text): TakenOver(_number(one, "epoch", 1), _told_copy(one)) for text, one in news.items()}


def _told_copy(one: Any) -> CopyId:
    return _copy(_field(one, "copy", str))


def _partition(text: str) -> int:
    if not text.isdecimal() or len(text) > 3 or int(text) >= MAX_PARTITIONS:
        raise ValueError(f"{text[:MAX_TEXT]!r} is no partition")
    return int(text)


def _field(data: Any, name: str, kind: type) -> Any:
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    value = data.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name}: {kind.__name__} expected")
    return value


def _number(data: Any, name: str, least: int, most: int = MAX_NUMBER - 1) -> int:
    value: int = _field(data, name, int)
    if not least <= value <= most:
        raise ValueError(f"{name}: {value} is not from {least} to {most}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"a text of at most {MAX_TEXT} characters expected")
    return value


def _copy(value: Any) -> CopyId:
    return CopyId.parse(_text(value))
