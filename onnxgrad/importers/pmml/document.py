"""A PMML file as a tree of elements that know their lines.

The parser is that of Python, expat. Entities are refused where they are declared, so none is ever expanded, and nothing
outside the file is ever read.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from onnxgrad.errors import ModelReadError

#: What helps against nearly everything that is wrong with such a file.
EXPORT = "export the model again"

#: So much of an element is shown, and elements are nested so deep at most.
_SHOWN, _DEEPEST = 100, 100

#: Errors of expat that say that the file ends too early.
_CUT = ("no element found", "unclosed token", "unclosed CDATA section", "partial character")


@dataclass(eq=False)
class Element:
    """An element of the file.

    Attributes:
        path: the file.
        name: its name, without its namespace.
        attributes: its attributes by name.
        line: where it begins, from 1.
        children: the elements in it, without extensions.
        text: the characters in it.
    """

    path: str
    name: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)
    text: str = ""

    # --- messages ----------------------------------------------------------------------------------

    def __str__(self) -> str:
        inside = "".join(f' {name}="{value}"' for name, value in self.attributes.items())
        tag = f"<{self.name}{inside}>"
        return tag if len(tag) <= _SHOWN else f"{tag[:_SHOWN]} …>"

    def refusal(self, why: str, remedy: str = EXPORT) -> ModelReadError:
        """Return the error that names the file, the line and the element."""
        return ModelReadError(f"{self.path!r}, line {self.line}: {why}; {remedy}\n  line {self.line}: {self}")

    # --- elements inside ---------------------------------------------------------------------------

    def all(self, *names: str) -> list[Element]:
        """Return the children of some names, in order."""
        return [child for child in self.children if child.name in names]

    def maybe(self, name: str) -> Element | None:
        """Return the only child of a name; None where there is none.

        Raises:
            ModelReadError: if there are several.
        """
        found = self.all(name)
        if len(found) > 1:
            raise found[1].refusal(f"<{self.name}> has several <{name}>, and there should be one")
        return found[0] if found else None

    def one(self, name: str) -> Element:
        """Return the only child of a name.

        Raises:
            ModelReadError: if there is not exactly one.
        """
        found = self.maybe(name)
        if found is None:
            raise self.refusal(f"there is no <{name}> in it")
        return found

    def by_name(self, kind: str) -> dict[str, Element]:
        """Return the children of a kind by their names.

        Raises:
            ModelReadError: if two have the same.
        """
        found: dict[str, Element] = {}
        for child in self.all(kind):
            name = child.required("name")
            if not name:
                raise child.refusal("its name is empty")
            if name in found:
                raise child.refusal(f"the name {name!r} is given twice; the first time in line {found[name].line}")
            found[name] = child
        return found

    def walk(self) -> Iterator[Element]:
        """Yield the element and all inside it, outer ones first."""
        yield self
        for child in self.children:
            yield from child.walk()

    # --- attributes --------------------------------------------------------------------------------

    def get(self, name: str) -> str | None:
        """Return an attribute; None where it is not there."""
        return self.attributes.get(name)

    def required(self, name: str) -> str:
        """Return an attribute.

        Raises:
            ModelReadError: if it is not there.
        """
        value = self.attributes.get(name)
        if value is None:
            raise self.refusal(f"the attribute {name!r} is missing")
        return value

    def number(self, name: str) -> float:
        """Return an attribute that is a finite number.

        Raises:
            ModelReadError: if it is none.
        """
        return self.as_number(self.required(name), f"the attribute {name!r}")

    def maybe_number(self, name: str) -> float | None:
        """Return an attribute that is a finite number; None where it is not there.

        Raises:
            ModelReadError: if it is none.
        """
        return None if name not in self.attributes else self.number(name)

    def as_number(self, text: str, what: str) -> float:
        """Return a text of the element as a finite number.

        Raises:
            ModelReadError: if it is none.
        """
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or "_" in text:
            raise self.refusal(f"{what} is {text!r}, which is no finite number")
        return value

    def choice(self, name: str, known: Iterable[str], default: str | None = None) -> str:
        """Return an attribute that is one of some words.

        Raises:
            ModelReadError: if it is none of them, or not there and has no default.
        """
        value = self.required(name) if default is None else self.attributes.get(name, default)
        words = list(known)
        if value not in words:
            near = difflib.get_close_matches(value.lower(), [word.lower() for word in words], n=1)
            hint = next((f" (did you mean {word!r}?)" for word in words if word.lower() in near), "")
            raise self.refusal(f"{name}={value!r} is not known{hint}; known are {', '.join(words)}")
        return value


def read(path: Path) -> Element:
    """Return the root of a file.

    Raises:
        ModelReadError: if it is no XML, is cut off, or declares entities.
    """
    reader = _Reader(str(path))
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = lambda name, attributes: reader.start(name, attributes, parser.CurrentLineNumber)
    parser.EndElementHandler = lambda _: reader.end()
    parser.CharacterDataHandler = reader.characters
    parser.EntityDeclHandler = lambda name, *_: reader.entity(name, parser.CurrentLineNumber)
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise reader.damaged(error) from error
    assert reader.root is not None
    return reader.root


class _Reader:
    """Takes what the parser finds."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.root: Element | None = None
        self.open: list[Element] = []

    def start(self, name: str, attributes: dict[str, str], line: int) -> None:
        """Begin an element; the namespace stays a part of the root's name, and of those of attributes."""
        uri, _, local = name.rpartition(" ")
        element = Element(self.path, local, dict(attributes), line)
        if self.root is None:
            self.root = element
            element.attributes.setdefault("xmlns", uri)
        elif not any(outer.name == "Extension" for outer in (*self.open, element)):
            self.open[-1].children.append(element)
        self.open.append(element)
        if len(self.open) > _DEEPEST:
            raise element.refusal(f"elements are nested more than {_DEEPEST} deep")

    def end(self) -> None:
        self.open.pop()

    def characters(self, text: str) -> None:
        self.open[-1].text += text

    def entity(self, name: str, line: int) -> None:
        raise ModelReadError(
            f"{self.path!r}, line {line}: the entity {name!r} is declared, and entities are not expanded here; remove "
            "the declaration, and write out what it stands for"
        )

    def damaged(self, error: expat.ExpatError) -> ModelReadError:
        """Return what is said of a file that is no XML."""
        words = expat.ErrorString(error.code)
        if self.root is None:
            return ModelReadError(
                f"{self.path!r}, line {error.lineno}: this is no XML ({words}); give a PMML file, as programs export it"
            )
        if self.open and words.startswith(_CUT):
            last = self.open[-1]
            return ModelReadError(
                f"{self.path!r}, line {error.lineno}: the file is cut off ({words}): the <{last.name}> of line "
                f"{last.line} is never closed; {EXPORT}"
            )
        return ModelReadError(f"{self.path!r}, line {error.lineno}: the file is damaged ({words}); {EXPORT}")


__all__ = ["EXPORT", "Element", "read"]
