"""Sizes of axes: integers, or exact arithmetic on symbolic names.

A `Dim` is an ``int``, or a ``str`` such as ``"N"`` or ``"2*N*H+1"``: a polynomial with integer coefficients over
atoms, in one canonical spelling, so that two sizes are known to be equal exactly where their `Dim` are equal. Atoms
are names from the model, floor divisions such as ``((H+1)//2)``, and ``broadcast(A,B)``. Any other text is an atom
too, in braces where it is part of a longer expression.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence

Dim = int | str
Shape = tuple[Dim, ...]

#: Size that stands for one that is not known before run time. Costs are only compared, and most share the same
#: unknown batch.
NOMINAL = 64

_Poly = dict[tuple[str, ...], int]
_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_][\w.]*)|(\{[^{}]*\}|//|[-+*()]))")


def dim_mul(*dims: Dim) -> Dim:
    """Return the product of sizes."""
    return _fold(dims, 1, lambda a, b: a * b, _poly_mul)


def dim_add(*dims: Dim) -> Dim:
    """Return the sum of sizes."""
    return _fold(dims, 0, lambda a, b: a + b, _poly_add)


def dim_sub(a: Dim, b: Dim) -> Dim:
    """Return ``a - b``."""
    return dim_add(a, dim_mul(-1, b))


def dim_floordiv(a: Dim, b: int) -> Dim:
    """Return ``floor(a / b)`` for a positive integer `b`.

    What divides exactly is taken out, so ``(H-1)//2 + 1`` and ``(H+1)//2`` are one `Dim`.
    """
    return _spell(_poly_floordiv(_parse(a), b))


def dim_div(a: Dim, b: Dim) -> Dim | None:
    """Return ``a / b`` where the division is known to be exact, else None."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    if a == b:
        return 1
    divisor = _parse(b)
    if len(divisor) != 1:
        return None
    ((atoms, coefficient),) = divisor.items()
    result: _Poly = {}
    for term, c in _parse(a).items():
        rest = list(term)
        for atom in atoms:
            if atom not in rest:
                return None
            rest.remove(atom)
        if not coefficient or c % coefficient:
            return None
        result[tuple(rest)] = c // coefficient
    return _spell(result)


def size_of(shape: Iterable[Dim]) -> Dim:
    """Return the number of elements of a shape."""
    return dim_mul(*shape)


def atoms_of(dim: Dim) -> frozenset[str]:
    """Return the atoms that a size is made of."""
    return frozenset() if isinstance(dim, int) else frozenset(_bare(a) for term in _parse(dim) for a in term)


def terms_of(dim: Dim) -> list[tuple[int, tuple[str, ...]]]:
    """Return a size as a sum of ``(coefficient, atoms)``."""
    return [(c, tuple(map(_bare, atoms))) for atoms, c in _parse(dim).items()]


def division_of(atom: str) -> tuple[Dim, int] | None:
    """Return ``(a, b)`` where `atom` is the floor division ``(a)//b``, else None."""
    match = re.fullmatch(r"\(\((.*)\)//(\d+)\)", atom)
    return (match[1], int(match[2])) if match else None


def evaluate(dim: Dim, sizes: dict[str, int]) -> int:
    """Return the size as a number, given a number for each of its names.

    Raises:
        KeyError: if a name is missing in `sizes`.
    """
    if isinstance(dim, int):
        return dim
    if dim in sizes:
        return sizes[dim]
    total = 0
    for coefficient, atoms in terms_of(dim):
        product = coefficient
        for atom in atoms:
            division = division_of(atom)
            if division is None or atom in sizes:
                product *= sizes[atom]
            else:
                product *= evaluate(division[0], sizes) // division[1]
        total += product
    return total


def broadcast(*shapes: Sequence[Dim]) -> Shape:
    """Return the shape that `shapes` broadcast to.

    Where two symbolic sizes meet that may or may not be equal, the result is the atom ``broadcast(A,B)``, which
    absorbs both.
    """
    result: list[Dim] = []
    for axis in range(-max(map(len, shapes), default=0), 0):
        dims = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        numbers = [d for d in dims if isinstance(d, int)]
        if numbers:  # whatever is symbolic must be equal to it, or 1
            result.append(numbers[0])
        elif len(dims) > 1:
            parts = {part for d in dims for part in broadcast_of(str(d)) or [str(d)]}
            result.append(f"broadcast({','.join(sorted(parts))})")
        else:
            result.append(dims.pop() if dims else 1)
    return tuple(result)


def broadcast_of(atom: str) -> list[str] | None:
    """Return ``[A, B, …]`` where `atom` is ``broadcast(A,B,…)``, else None."""
    if not (atom.startswith("broadcast(") and _closing(atom, len("broadcast")) == len(atom) - 1):
        return None
    parts, depth = [""], 0
    for character in atom[len("broadcast(") : -1]:
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _closing(text: str, opening: int) -> int:
    """Return the position of the parenthesis that closes the one at `opening`, or -1."""
    depth = 0
    for i in range(opening, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    return -1


def _fold(
    dims: Iterable[Dim], unit: int, on_ints: Callable[[int, int], int], on_polys: Callable[[_Poly, _Poly], _Poly]
) -> Dim:
    """Combine sizes; the common cases, all numbers or a single name, without taking a name apart."""
    number, symbolic = unit, []
    for dim in dims:
        if isinstance(dim, int):
            number = on_ints(number, dim)
        else:
            symbolic.append(dim)
    if not symbolic:
        return number
    if number == unit and len(symbolic) == 1:
        return symbolic[0]
    return _spell(functools.reduce(on_polys, map(_parse, symbolic), {(): number}))


def _poly_add(a: _Poly, b: _Poly) -> _Poly:
    total = {atoms: a.get(atoms, 0) + b.get(atoms, 0) for atoms in (*a, *(k for k in b if k not in a))}
    return {atoms: c for atoms, c in total.items() if c}


def _poly_mul(a: _Poly, b: _Poly) -> _Poly:
    result: _Poly = {}
    for x, c in a.items():
        for y, d in b.items():
            atoms = tuple(sorted(x + y))
            result[atoms] = result.get(atoms, 0) + c * d
    return {atoms: c for atoms, c in result.items() if c}


def _poly_floordiv(a: _Poly, b: int) -> _Poly:
    whole: _Poly = {}
    rest: _Poly = {}
    for atoms, coefficient in a.items():
        whole[atoms], rest[atoms] = divmod(coefficient, b)
    remainder = _spell(rest)
    return _poly_add(whole, {} if isinstance(remainder, int) else {(f"(({remainder})//{b})",): 1})


def _spell(poly: _Poly) -> Dim:
    terms = sorted((item for item in poly.items() if item[1]), key=lambda item: (-len(item[0]), item[0]))
    if not terms:
        return 0
    if not terms[0][0]:
        return terms[0][1]
    if terms == [(terms[0][0][:1], 1)]:
        return _bare(terms[0][0][0])
    text = ""
    for atoms, c in terms:
        factors = ([] if abs(c) == 1 and atoms else [str(abs(c))]) + list(atoms)
        text += ("-" if c < 0 else "+" if text else "") + "*".join(factors)
    return text


@functools.lru_cache(maxsize=65536)
def _parse_text(text: str) -> tuple[tuple[tuple[str, ...], int], ...]:
    try:
        tokens, position = [], 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if not match:
                raise ValueError(text)
            position = match.end()
            if match[2] and text[position : position + 1] == "(":  # broadcast(…) and the like are atoms
                position = _closing(text, position) + 1
                if not position:
                    raise ValueError(text)
            tokens.append(text[match.start() : position].strip())
        poly = _Parser(tokens).whole()
    except (ValueError, IndexError):
        poly = {(f"{{{text}}}",): 1}
    return tuple(poly.items())


def _bare(atom: str) -> str:
    """Return the name of an atom: one that is no identifier stands in braces within a longer expression."""
    return atom[1:-1] if atom.startswith("{") else atom


def _parse(dim: Dim) -> _Poly:
    return {(): dim} if isinstance(dim, int) else dict(_parse_text(dim))


class _Parser:
    """Recursive descent over ``sum := product (± product)*``, ``product := factor (* factor)*``."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def whole(self) -> _Poly:
        poly = self.sum()
        if self.peek():
            raise ValueError(self.peek())
        return poly

    def sum(self) -> _Poly:
        sign = -1 if self.peek() == "-" else 1
        if self.peek() in ("-", "+"):
            self.next()
        poly = _poly_mul({(): sign}, self.product())
        while self.peek() in ("+", "-"):
            sign = 1 if self.next() == "+" else -1
            poly = _poly_add(poly, _poly_mul({(): sign}, self.product()))
        return poly

    def product(self) -> _Poly:
        poly = self.factor()
        while self.peek() == "*":
            self.next()
            poly = _poly_mul(poly, self.factor())
        return poly

    def factor(self) -> _Poly:
        token = self.next()
        if token.isdigit():
            return {(): int(token)}
        if token != "(":
            if not re.match(r"[A-Za-z_{]", token):
                raise ValueError(token)
            return {(token,): 1}
        poly = self.sum()
        if self.peek() == "//":
            self.next()
            divisor = self.next()
            if not divisor.isdigit() or self.next() != ")":
                raise ValueError(divisor)
            return _poly_floordiv(poly, int(divisor))
        if self.next() != ")":
            raise ValueError(token)
        return poly


def elements(shape: Iterable[Dim]) -> float:
    """Return the number of elements, with `NOMINAL` for each unknown size."""
    total = 1.0
    for dim in shape:
        if isinstance(dim, int):
            total *= dim
        else:
            total *= max(evaluate(dim, dict.fromkeys(atoms_of(dim), NOMINAL)), 1)
    return total
