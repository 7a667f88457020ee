"""From tokens to a syntax tree, by recursive descent.

file       = function+
function   = "function" [returns "="] name ["(" parameters ")"] statement* ["end"]
statement  = target "=" expression | "[" targets "]" "=" expression | expression
           | "if" expression statement* ("elseif" expression statement*)* ["else" statement*] "end"
           | "for" name "=" expression statement* "end" | "return" | what is none of these, which is skipped
expression = MATLAB's operators in their order: || && | & comparison : + * unary ^ '
operand    = number | string | name | "(" expression ")" | "[" rows "]" | "{" rows "}" | "@" name
           | "@" "(" parameters ")" expression,
             each followed by any number of ".name", "(arguments)", "{arguments}"
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

from onnxgrad.errors import ModelReadError
from onnxgrad.importers.matlab import syntax as s
from onnxgrad.importers.matlab.lexer import Token, tokens_of
from onnxgrad.importers.matlab.source import Source

T = TypeVar("T")

#: Binary operators, from those that bind least.
_LEVELS = (
    ("||",), ("&&",), ("|",), ("&",), ("==", "~=", "<", "<=", ">", ">="), (":",), ("+", "-"),
    ("*", "/", "\\", ".*", "./", ".\\"),
)  # fmt: skip
_RANGE = _LEVELS.index((":",))
#: What an ``end`` closes.
_OPENING = ("if", "for", "while", "switch", "try", "parfor")
#: Keywords of statements of one line.
_ALONE = ("break", "continue", "global", "persistent")


def parse(source: Source) -> list[s.Function]:
    """Return the functions of a file, the main one first.

    Raises:
        ModelReadError: if something is outside of the grammar; it names the line.
    """
    return _Parser(source).file()


class _Parser:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.tokens = tokens_of(source)
        self.at = 0
        #: What brackets are open: in "[" and "{", blanks separate.
        self.within: list[str] = []

    # --- tokens ----------------------------------------------------------------------------------

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        token = self.token
        self.at += 1
        return token

    def sees(self, *texts: str) -> bool:
        return self.token.kind in ("operator", "keyword") and self.token.text in texts

    def accept(self, text: str) -> bool:
        if self.sees(text):
            self.at += 1
            return True
        return False

    def expect(self, text: str, where: str) -> None:
        if not self.accept(text):
            self.fail(f"there should be {text!r} {where}, and there is {self.shown()}")

    def name(self, what: str) -> str:
        if self.token.kind != "name":
            self.fail(f"there should be {what}, and there is {self.shown()}")
        return self.take().text

    def shown(self) -> str:
        ends = {"line end": "the end of the line", "file end": "the end of the file"}
        return ends.get(self.token.kind, repr(self.token.text))

    def fail(self, why: str) -> NoReturn:
        raise self.source.refusal(self.token.line, why)

    def skip_ends(self) -> None:
        while self.token.kind == "line end" or self.sees(";", ","):
            self.at += 1

    # --- functions and statements -----------------------------------------------------------------

    def file(self) -> list[s.Function]:
        found = []
        self.skip_ends()
        while self.token.kind != "file end":
            if not self.sees("function"):
                self.fail(
                    f"there should be a function, and there is {self.shown()}: the file is not what genFunction writes"
                )
            found.append(self.function())
            self.skip_ends()
        return found

    def function(self) -> s.Function:
        line = self.take().line
        returns: tuple[str, ...] = ()
        if self.sees("["):
            returns = self.returned()
            self.expect("=", "behind what the function returns")
            name = self.name("the name of the function")
        else:
            name = self.name("the name of the function")
            if self.accept("="):
                returns, name = (name,), self.name("the name of the function")
        parameters = self.parameters() if self.sees("(") else ()
        self.skip_ends()
        if self.token.text == "arguments" and self.tokens[self.at + 1].kind == "line end":
            self.fail("a block of 'arguments' does not occur in what genFunction writes: delete it")
        body = self.block("function", "end")
        self.accept("end")
        return s.Function(line, name, parameters, returns, body)

    def returned(self) -> tuple[str, ...]:
        self.take()
        names = []
        while not self.accept("]"):
            names.append(self.name("the name of what the function returns"))
            self.accept(",")
        return tuple(names)

    def parameters(self) -> tuple[str, ...]:
        self.take()
        names: list[str] = []
        while not self.accept(")"):
            names.append("~" if self.accept("~") else self.name("the name of an argument"))
            if not self.sees(")"):
                self.expect(",", "between arguments")
        return tuple(names)

    def block(self, *until: str) -> tuple[s.Statement, ...]:
        """Read statements up to one of some keywords, which is left, or the end of the file."""
        found = []
        self.skip_ends()
        while not self.sees(*until):
            if self.token.kind == "file end":
                if "function" in until:
                    break
                self.fail("the file ends in the middle: it is cut off")
            found.append(self.statement())
            self.skip_ends()
        return tuple(found)

    def statement(self) -> s.Statement:
        line = self.token.line
        if self.accept("if"):
            statement: s.Statement = self.conditional(line)
        elif self.accept("for"):
            statement = self.loop(line)
        elif self.accept("return"):
            statement = s.Return(line)
        else:
            return self.known_or_skipped()
        self.expect_end()
        return statement

    def known_or_skipped(self) -> s.Statement:
        """Read a statement of one line, or skip one that is outside of the language.

        People put functions of their own behind those of the network; only what is followed has to be understood.
        """
        line, start = self.token.line, self.at
        try:
            if self.token.kind == "keyword":
                self.fail(f"{self.token.text!r} does not occur in what genFunction writes")
            statement = self.simple(line)
            self.expect_end()
        except ModelReadError as error:
            self.at = start
            self.within.clear()
            self.skip_block() if self.sees(*_OPENING) else self.skip_statement(error)
            return s.Foreign(line, error)
        return statement

    def expect_end(self) -> None:
        if not (self.token.kind in ("line end", "file end") or self.sees(";", ",")):
            self.fail(f"there should be the end of a statement, and there is {self.shown()}")

    def skip_statement(self, error: ModelReadError) -> None:
        """Skip a statement of one line, which must not take the ``end`` of what is around with it."""
        self.at += self.sees(*_ALONE)
        depth = 0
        while self.token.kind not in ("line end", "file end") and (depth or not self.sees(";", ",")):
            depth += self.sees("(", "[", "{") - self.sees(")", "]", "}")
            if self.token.kind == "keyword":
                raise error
            self.at += 1

    def skip_block(self) -> None:
        """Skip ``while … end`` and the like, with all that is in it."""
        line, depth = self.token.line, 0
        while True:
            depth += self.sees(*_OPENING) - self.sees("end")
            if self.token.kind == "file end" or self.sees("function"):
                raise self.source.refusal(line, f"the {self.token.text or 'file'!r} comes before the 'end' of this")
            self.at += 1
            if not depth:
                return

    def conditional(self, line: int) -> s.If:
        branches: list[tuple[s.Expression | None, tuple[s.Statement, ...]]] = []
        condition: s.Expression | None = self.expression()
        while True:
            branches.append((condition, self.block("elseif", "else", "end")))
            if self.accept("end"):
                return s.If(line, tuple(branches))
            condition = self.expression() if self.take().text == "elseif" else None

    def loop(self, line: int) -> s.For:
        bracket = self.accept("(")
        name = self.name("the variable of the loop")
        self.expect("=", "behind the variable of the loop")
        over = self.expression()
        if bracket:
            self.expect(")", "behind the range of the loop")
        body = self.block("end")
        self.take()
        return s.For(line, name, over, body)

    def simple(self, line: int) -> s.Statement:
        if targets := self.several_targets():
            return s.Assign(line, targets, self.expression())
        value = self.expression()
        if not self.sees("="):
            return s.Evaluate(line, value)
        if not isinstance(value, (s.Name, s.Field, s.Apply, s.Content)):
            self.fail("nothing can be assigned to what stands left of '='")
        self.take()
        return s.Assign(line, (value,), self.expression())

    def several_targets(self) -> tuple[s.Expression | None, ...]:
        """Read ``[a, ~, c] =``, if that is what comes."""
        if not self.sees("["):
            return ()
        start, depth = self.at, 0
        while self.tokens[self.at].kind not in ("line end", "file end"):
            depth += {"[": 1, "]": -1}.get(self.tokens[self.at].text, 0)
            self.at += 1
            if not depth:
                break
        is_assignment = self.sees("=")
        self.at = start
        if not is_assignment:
            return ()
        self.take()
        self.within.append("[")
        targets: list[s.Expression | None] = []
        while not self.sees("]"):
            targets.append(None if self.accept("~") else self.expression())
            self.accept(",")
        self.within.pop()
        self.at += 2
        return tuple(targets)

    # --- expressions -------------------------------------------------------------------------------

    def expression(self, level: int = 0) -> s.Expression:
        if level == len(_LEVELS):
            return self.unary()
        if level == _RANGE:
            return self.range()
        value = self.expression(level + 1)
        while self.sees(*_LEVELS[level]) and not self.begins_element():
            token = self.take()
            value = s.Binary(token.line, token.text, value, self.expression(level + 1))
        return value

    def begins_element(self) -> bool:
        """Whether a sign begins the next element: ``[a -b]`` is two, ``[a - b]`` and ``[a-b]`` are one."""
        separates = bool(self.within) and self.within[-1] in "[{"
        return separates and self.token.text in "+-" and self.token.spaced and self.token.glued

    def range(self) -> s.Expression:
        line = self.token.line
        parts = [self.expression(_RANGE + 1)]
        while len(parts) < 3 and self.sees(":") and self.tokens[self.at + 1].text not in (")", ","):
            self.take()
            parts.append(self.expression(_RANGE + 1))
        if len(parts) == 1:
            return parts[0]
        return s.Range(line, parts[0], parts[1] if len(parts) == 3 else None, parts[-1])

    def unary(self) -> s.Expression:
        if self.sees("-", "+", "~"):
            token = self.take()
            return s.Unary(token.line, token.text, self.unary())
        value = self.postfix()
        while self.sees("^", ".^"):
            token = self.take()
            value = s.Binary(token.line, token.text, value, self.exponent())
        return value

    def exponent(self) -> s.Expression:
        if self.sees("-", "+", "~"):
            token = self.take()
            return s.Unary(token.line, token.text, self.exponent())
        return self.postfix()

    def postfix(self) -> s.Expression:
        value = self.operand()
        while True:
            separated = bool(self.within) and self.within[-1] in "[{" and self.token.spaced
            line = self.token.line
            if self.sees("(") and not separated:
                value = s.Apply(line, value, self.arguments(")"))
            elif self.sees("{") and not separated:
                value = s.Content(line, value, self.arguments("}"))
            elif self.sees(".") and not separated:
                self.take()
                value = s.Field(line, value, self.name("the name of a field"))
            elif self.sees("'", ".'") and not separated:
                self.take()
                value = s.Transpose(line, value)
            else:
                return value

    def operand(self) -> s.Expression:
        token = self.token
        match token.kind:
            case "number" | "matrix":
                assert token.value is not None
                self.take()
                return s.Number(token.line, token.value)
            case "string":
                return s.String(token.line, self.take().text)
            case "name":
                return s.Name(token.line, self.take().text)
        if self.sees("("):
            return self.nested("(", ")", self.expression)
        if self.sees("["):
            return s.Matrix(token.line, self.nested("[", "]", self.rows))
        if self.sees("{"):
            return s.Cells(token.line, self.nested("{", "}", self.rows))
        if self.accept("@"):
            if self.sees("("):
                self.parameters()
                self.expression()
                return s.Handle(token.line, "")
            return s.Handle(token.line, self.name("the name of a function"))
        raise self.source.refusal(token.line, f"there should be an expression, and there is {self.shown()}")

    def nested(self, opening: str, closing: str, inside: Callable[[], T]) -> T:
        self.take()
        self.within.append(opening)
        value = inside()
        self.within.pop()
        self.expect(closing, "behind the expression")
        return value

    def arguments(self, closing: str) -> tuple[s.Expression, ...]:
        def inside() -> tuple[s.Expression, ...]:
            found: list[s.Expression] = []
            while not self.sees(closing):
                found.append(self.argument())
                if not self.sees(closing):
                    self.expect(",", "between arguments")
                    if self.sees(closing):
                        self.fail(f"there should be an argument, and there is {self.shown()}")
            return tuple(found)

        self.take()
        self.within.append("(")  # blanks do not separate here, in braces either
        value = inside()
        self.within.pop()
        self.expect(closing, "behind the arguments")
        return value

    def argument(self) -> s.Expression:
        if self.sees(":") and self.tokens[self.at + 1].text in (",", ")", "}"):
            return s.Everything(self.take().line)
        return self.expression()

    def rows(self) -> tuple[tuple[s.Expression, ...], ...]:
        rows: list[tuple[s.Expression, ...]] = []
        row: list[s.Expression] = []
        while not self.sees("]", "}"):
            if self.accept(";"):
                rows.append(tuple(row))
                row = []
            elif not (row and self.accept(",")):
                row.append(self.expression())
        rows.append(tuple(row))
        return tuple(row for row in rows if row)


__all__ = ["parse"]
