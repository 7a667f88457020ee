"""MATLAB's tokens.

Two things depend on what is around: an apostrophe transposes behind an operand and opens a string elsewhere; and in
brackets, blanks separate elements and line ends separate rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxgrad.importers.matlab.source import Source

KEYWORDS = frozenset(
    "function end if elseif else for while switch case otherwise try catch return break continue global persistent "
    "parfor classdef".split()
)

_NUMBER = re.compile(r"(?:\d+(?:\.(?![*/\\^'])\d*)?|\.\d+)(?:[eEdD][+-]?\d+)?")
_NAME = re.compile(r"[A-Za-z]\w*")
_OPERATOR = re.compile(r"\.\*|\./|\.\\|\.\^|\.'|==|~=|<=|>=|&&|\|\||[-+*/\\^<>=&|~@()\[\]{},;:.]")
_BLANKS = re.compile(r"[ \t\f\v\xa0]+")
_CONTINUATION = re.compile(r"\.\.\.[^\n]*(?:\n|$)")
_BLOCK_COMMENT = re.compile(r"(?m)^[ \t]*%\{[ \t]*$")
_STRING = {"'": re.compile(r"'((?:[^'\n]|'')*)'"), '"': re.compile(r'"((?:[^"\n]|"")*)"')}
#: A matrix of nothing but numbers, read in one go: such lines are up to millions of characters long.
_NUMBERS = re.compile(r"\[[-+0-9eE., ;\t\n]*\]")
_CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Token:
    """One token.

    Attributes:
        kind: number, matrix (of numbers), string, name, keyword, operator, line end, or file end.
        text: how it is written; for a string, what is in it.
        line: where it begins, from 1.
        spaced: whether blanks stand before it.
        glued: whether no blanks stand behind it.
        value: of a number or matrix.
    """

    kind: str
    text: str
    line: int
    spaced: bool = False
    glued: bool = False
    value: float | np.ndarray | None = None

    @property
    def ends_operand(self) -> bool:
        """Whether an apostrophe behind it transposes."""
        return self.kind in ("number", "matrix", "string", "name") or self.text in (")", "]", "}", "'", ".'", "end")


def tokens_of(source: Source) -> list[Token]:
    """Return the tokens of a file, without comments; the last one is the file's end.

    Raises:
        ModelReadError: if there is a character that no token begins with, or a bracket or string stays open.
    """
    return list(_Lexer(source).tokens())


class _Lexer:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.text = source.text
        self.at = 0
        self.line = 1
        self.open: list[Token] = []
        self.last: Token | None = None

    def tokens(self) -> Iterator[Token]:
        while True:
            spaced = self.skip()
            if self.at >= len(self.text):
                break
            token = self.next(spaced)
            self.last = token
            yield token
        if self.open:
            raise self.source.refusal(
                self.open[-1].line, f"the {self.open[-1].text!r} is never closed: the file is cut off or damaged"
            )
        yield Token("line end", "\n", self.line)
        yield Token("file end", "", self.line)

    def skip(self) -> bool:
        """Skip blanks, comments and continued lines; return whether there were any."""
        start = self.at
        while self.at < len(self.text):
            letter = self.text[self.at]
            if blanks := _BLANKS.match(self.text, self.at):
                self.move(blanks.end())
            elif continued := _CONTINUATION.match(self.text, self.at):
                self.move(continued.end())
            elif letter == "%":
                self.skip_comment()
            else:
                break
        return self.at > start

    def skip_comment(self) -> None:
        line_start = self.text.rfind("\n", 0, self.at) + 1
        end = self.text.find("\n", self.at)
        end = len(self.text) if end < 0 else end
        if _BLOCK_COMMENT.match(self.text[line_start:end]):
            depth = 1
            while depth and end < len(self.text):
                start, end = end + 1, self.text.find("\n", end + 1)
                end = len(self.text) if end < 0 else end
                mark = self.text[start:end].strip()
                depth += (mark == "%{") - (mark == "%}")
        self.move(end)

    def move(self, to: int) -> None:
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    @property
    def in_brackets(self) -> bool:
        return bool(self.open) and self.open[-1].text != "("

    def next(self, spaced: bool) -> Token:
        letter, line = self.text[self.at], self.line
        if letter == "\n":
            return self.line_end(spaced)
        if letter == "[" and (token := self.numbers(spaced)):
            return token
        if letter in "'\"" and not (letter == "'" and self.transposes(spaced)):
            return self.string(letter, spaced)
        if letter.isdigit() or (letter == "." and self.text[self.at + 1 : self.at + 2].isdigit()):
            return self.number(spaced)
        if match := _NAME.match(self.text, self.at):
            word = match.group()
            after_dot = self.last is not None and self.last.text == "." and self.last.kind == "operator"
            is_keyword = word in KEYWORDS and not after_dot and not (word == "end" and self.open)
            return self.token("keyword" if is_keyword else "name", word, match.end(), spaced)
        if letter == "'":
            return self.token("operator", "'", self.at + 1, spaced)
        if match := _OPERATOR.match(self.text, self.at):
            token = self.token("operator", match.group(), match.end(), spaced)
            self.follow(token)
            return token
        raise self.source.refusal(line, f"the character {letter!r} does not occur in MATLAB's expressions")

    def token(self, kind: str, text: str, end: int, spaced: bool, value: float | np.ndarray | None = None) -> Token:
        line = self.line
        self.move(end)
        glued = end < len(self.text) and self.text[end] not in " \t\n"
        return Token(kind, text, line, spaced, glued, value)

    def line_end(self, spaced: bool) -> Token:
        if self.open and self.open[-1].text == "(":
            raise self.source.refusal(
                self.open[-1].line, "the '(' is not closed on its line: the file is cut off or damaged"
            )
        line = self.line
        self.move(self.at + 1)
        return Token("operator", ";", line, spaced) if self.open else Token("line end", "\n", line, spaced)

    def numbers(self, spaced: bool) -> Token | None:
        """Read a matrix of numbers, unless it is not so simple."""
        match = _NUMBERS.match(self.text, self.at)
        if match is None:
            return None
        inside = re.sub(r"\.\.\.[ \t]*\n", " ", match.group()[1:-1])
        if re.search(r",\s*,", inside):
            return None
        try:
            rows = [[float(word) for word in row.replace(",", " ").split()] for row in re.split(r"[;\n]", inside)]
        except ValueError:
            return None
        rows = [row for row in rows if row]
        for row in rows:
            if len(row) != len(rows[0]):
                raise self.source.refusal(
                    self.line,
                    f"the matrix has a row of {len(row)} elements below one of {len(rows[0])}: it is damaged",
                )
        value = np.array(rows, dtype=np.float64).reshape(len(rows), len(rows[0]) if rows else 0)
        return self.token("matrix", "[…]", match.end(), spaced, value)

    def transposes(self, spaced: bool) -> bool:
        return self.last is not None and self.last.ends_operand and not (spaced and self.in_brackets)

    def string(self, quote: str, spaced: bool) -> Token:
        match = _STRING[quote].match(self.text, self.at)
        if match is None:
            raise self.source.refusal(self.line, f"the string that {quote} opens is never closed")
        return self.token("string", match.group(1).replace(quote * 2, quote), match.end(), spaced)

    def number(self, spaced: bool) -> Token:
        match = _NUMBER.match(self.text, self.at)
        assert match is not None
        if re.match(r"\w", self.text[match.end() : match.end() + 1]):
            word = re.match(r"[\w.]+", self.text[self.at :])
            raise self.source.refusal(self.line, f"{word.group() if word else ''!r} is no real number")
        value = float(re.sub("[dD]", "e", match.group()))
        return self.token("number", match.group(), match.end(), spaced, value)

    def follow(self, token: Token) -> None:
        """Keep account of what brackets are open."""
        if token.text in _CLOSING:
            self.open.append(token)
        elif token.text in _CLOSING.values():
            if not self.open or _CLOSING[self.open[-1].text] != token.text:
                raise self.source.refusal(token.line, f"the {token.text!r} closes nothing")
            self.open.pop()


__all__ = ["KEYWORDS", "Token", "tokens_of"]
