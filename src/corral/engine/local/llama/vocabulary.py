"""llama.cpp's vocabulary: tokenizing, and the bytes of every token looked up once at load."""

from __future__ import annotations  # the bindings define their pointer types for type checkers only

import ctypes
from functools import cached_property

import llama_cpp

from corral.engine.local.backend import Infill
from corral.engine.local.prompts.blocks import blocks

_NOT_FROM_TEXT = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN


class LlamaVocabulary:
    """The vocabulary of a loaded model, which must outlive it. Read-only, so safe from any thread."""

    def __init__(self, model: llama_cpp.llama_model_p) -> None:
        vocab = llama_cpp.llama_model_get_vocab(model)
        assert vocab is not None
        self._vocab = vocab
        tokens = range(llama_cpp.llama_vocab_n_tokens(vocab))
        self._tokens = tokens
        attributes = [llama_cpp.llama_vocab_get_attr(vocab, token) for token in tokens]

        def having(attribute: int) -> list[int]:
            return [token for token, own in enumerate(attributes) if own & attribute]

        self.control_texts = {self.text(token): token for token in having(_NOT_FROM_TEXT)}
        self.user_texts = {
            self.text(token): token for token in having(llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED)
        }
        self.strips_left = frozenset(having(llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP))
        self.strips_right = frozenset(having(llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP))
        # Where a blank is put before every text, a line end alone is two tokens: the blank is the first.
        line = self._tokenize("\n", parse_control=False)
        self._line = line if llama_cpp.llama_vocab_type(vocab) == llama_cpp.LLAMA_VOCAB_TYPE_SPM else []
        infill = [
            get(vocab)
            for get in (
                llama_cpp.llama_vocab_fim_pre,
                llama_cpp.llama_vocab_fim_suf,
                llama_cpp.llama_vocab_fim_mid,
            )
        ]
        self.infill = None if llama_cpp.LLAMA_TOKEN_NULL in infill else Infill(*infill)
        self.bos = llama_cpp.llama_vocab_bos(vocab) if llama_cpp.llama_vocab_get_add_bos(vocab) else None
        around = self._tokenize("", parse_control=False, adds_special=True)
        self.closers = tuple(around if self.bos is None or around[:1] != [self.bos] else around[1:])

    @cached_property
    def pieces(self) -> list[bytes]:
        return [self._piece(token) for token in self._tokens]

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        return frozenset(token for token in self._tokens if llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def text(self, token: int) -> str:
        """How a token is written in a template; empty for a token the model does not have (-1).

        Bytes that are no UTF-8 are replaced: such a text is one that no template writes.
        """
        if token < 0:
            return ""
        text: bytes = llama_cpp.llama_vocab_get_text(self._vocab, token)
        return text.decode(errors="replace")

    @property
    def bos_text(self) -> str:
        return self.text(llama_cpp.llama_vocab_bos(self._vocab))

    @property
    def eos_text(self) -> str:
        return self.text(llama_cpp.llama_vocab_eos(self._vocab))

    def tokenize(self, text: str, *, parse_control: bool, continues: bool = False) -> list[int]:
        tokens: list[int] = []
        for block in blocks(text):
            tokens += (
                self._behind_a_line(block, parse_control)
                if continues
                else self._tokenize(block, parse_control)
            )
            continues = True
        return tokens

    def _behind_a_line(self, text: str, parse_control: bool) -> list[int]:
        """The tokens of what continues a text: no blank is put before it if there is a line before it."""
        if self._line:
            tokens = self._tokenize("\n" + text, parse_control)
            if tokens[: len(self._line)] == self._line:
                return tokens[len(self._line) :]
        return self._tokenize(text, parse_control)

    def _tokenize(self, text: str, parse_control: bool, *, adds_special: bool = False) -> list[int]:
        raw = text.encode()
        size = len(raw) + 2  # no tokenizer makes more tokens than bytes, but for a space put in front
        while True:
            tokens = (llama_cpp.llama_token * size)()
            count = llama_cpp.llama_tokenize(
                self._vocab, raw, len(raw), tokens, size, adds_special, parse_control
            )
            if count >= 0:
                return tokens[:count]
            size = -count

    def _piece(self, token: int) -> bytes:
        size = 32
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            size = -length
