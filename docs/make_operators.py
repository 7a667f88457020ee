"""Write docs/operators.md, the table of all operators and their rules, or check that it is up to date.

python docs/make_operators.py            write it; refuses if a rule is gone that the table had
python docs/make_operators.py --remove   write it all the same
python docs/make_operators.py --check    exit code 1 if it differs from what would be written
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import onnx

from onnxgrad.model.opsets import WORKING_OPSET
from onnxgrad.rules import REGISTRY
from onnxgrad.rules.registry import Rule

PAGE = Path(__file__).parent / "operators.md"
HEAD = """# Operators

Written by `python docs/make_operators.py`; a test holds it up to date.

- **rule**: how the derivative is given (see [design.md](design.md)). *Not differentiable*: the derivative is zero
  wherever it exists, or the outputs are no real numbers; the reason stands in the last column. *Control flow*: the
  derivative goes through the bodies. *Resolved*: tensors are put in the place of sequences and optionals when a model
  is read; what could not be resolved is refused, for the reason in the last column.
- **versions**: those the rule was written against, of the ones in force from opset {opset} on. Older models are lifted
  to opset {opset} when they are read; newer versions of an operator are refused until they are reviewed.
- **with respect to**: the inputs that have a derivative which can be other than zero.
- **per sample**: whether the proof that samples do not mix can pass through it.
"""


def schemas_of(domain: str) -> dict[str, onnx.defs.OpSchema]:
    """Return the newest schema of each operator of a domain, by ``domain::Op``."""
    newest: dict[str, onnx.defs.OpSchema] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        name = f"{domain}::{schema.name}" if domain else schema.name
        if schema.domain == domain and (name not in newest or schema.since_version > newest[name].since_version):
            newest[name] = schema
    return dict(sorted(newest.items()))


def page() -> str:
    """Return the text of the page."""
    parts = [HEAD.format(opset=WORKING_OPSET)]
    by_domain: dict[str, list[Rule]] = {"": [], "ai.onnx.ml": []}
    for rule in REGISTRY:
        if rule.remark != "custom":
            by_domain.setdefault(rule.operator.rpartition("::")[0], []).append(rule)
    for domain, rules in by_domain.items():
        schemas = schemas_of(domain)
        missing = [n for n, s in schemas.items() if not s.deprecated and REGISTRY.get(n) is None]
        count = f"{len(rules)} of {len(rules) + len(missing)}" if schemas else f"{len(rules)}"
        parts.append(f"## {domain or 'ai.onnx'}: {count}\n")
        parts.append("| operator | rule | versions | with respect to | per sample | |\n|---|---|---|---|---|---|")
        parts.append("\n".join(row(rule, schemas.get(rule.operator)) for rule in rules) + "\n")
        if missing:
            parts.append(f"Without a rule, so that a derivative through them is refused: {', '.join(missing)}.\n")
    return "\n".join(parts)


def row(rule: Rule, schema: onnx.defs.OpSchema | None) -> str:
    """Return the row of one operator."""
    is_step = rule.kind == "not differentiable"
    versions = ", ".join(map(str, sorted(rule.versions))) or "all"
    follows = "" if is_step else "yes" if rule.follow is not None else "no"
    zeros = [f"zero with respect to {_name(schema, i)}: {why}" for i, why in sorted(rule.zero.items())]
    remarks = "; ".join([rule.remark, *zeros] if rule.remark else zeros).replace("|", "\\|")
    wrt = "" if is_step else _wrt(rule, schema)
    return f"| {rule.operator} | {rule.kind} | {versions} | {wrt} | {follows} | {remarks} |"


def _wrt(rule: Rule, schema: onnx.defs.OpSchema | None) -> str:
    """Return the inputs with a derivative."""
    if schema is None:
        return "all" if rule.wrt is None else ", ".join(f"input {i}" for i in sorted(rule.wrt))
    reals = [any(t.startswith("tensor(float") for t in entry.types) for entry in schema.inputs]
    return ", ".join(_name(schema, i) for i, real in enumerate(reals) if real and rule.differentiates(i))


def _name(schema: onnx.defs.OpSchema | None, index: int) -> str:
    known = schema is not None and index < len(schema.inputs)
    return schema.inputs[index].name if known else f"input {index}"


def rows_of(text: str) -> set[str]:
    """Return the operators that a page has rows for."""
    return set(re.findall(r"^\| ([\w.:]+) \| ", text, re.MULTILINE)) - {"operator"}


def main(arguments: list[str]) -> int:
    """Write or check the page; return the exit code."""
    text = page()
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if "--check" in arguments:
        if text != before:
            print(f"{PAGE.name} is out of date; run python docs/make_operators.py")
        return int(text != before)
    gone = rows_of(before) - rows_of(text)
    if gone and "--remove" not in arguments:
        print(f"rules are gone: {', '.join(sorted(gone))}; pass --remove if that is meant")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
