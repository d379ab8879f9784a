"""Text -> token ids with a checkpoint's own tokenizers file; who may write control tokens is decided by the caller."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.errors import BundleError
from tam_edge.runtime.schema import FileSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Whether control tokens are recognised is a switch of the tokenizer object; two threads must not turn it at once.
_SWITCH = threading.Lock()


def load_tokenizer(bundle: Bundle, spec: FileSpec, field: str) -> Tokenizer:
    """Open a tokenizers file of the bundle; `field` is its name in the manifest.

    Raises:
        BundleError: the file is no tokenizer.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(bundle.file(spec)))
    except BundleError:
        raise
    except Exception as error:  # the library raises nothing more specific
        raise BundleError(bundle.path, field, f"{spec.file!r} is no tokenizers file: {error}") from error


def encode_template(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Token ids of a bundle's own text: control tokens in it are control tokens; nothing is added around it."""
    return _encode(tokenizer, text, plain=False, surround=False)


def encode_plain(tokenizer: Tokenizer, text: str, *, surround: bool = False) -> tuple[int, ...]:
    """Token ids of somebody else's text: control tokens in it are ordinary characters.

    `surround` lets the tokenizer put its own start and end tokens around the text, as classifiers expect.
    """
    return _encode(tokenizer, text, plain=True, surround=surround)


def _encode(tokenizer: Tokenizer, text: str, *, plain: bool, surround: bool) -> tuple[int, ...]:
    with _SWITCH:
        tokenizer.encode_special_tokens = plain
        return tuple(tokenizer.encode(text, add_special_tokens=surround).ids)
