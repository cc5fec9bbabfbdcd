"""Conditions over the fields of a report, for `--assert` and `--only-if`: parsed, never `eval`.

    condition  = term {"or" term}           term   = factor {"and" factor}
    factor     = "not" factor | "(" condition ")" | field operator value
    operator   = "<" | "<=" | ">" | ">=" | "==" | "!="
    value      = number | word | 'quoted words' | "null"
    field      = one of NUMBERS, WORDS, SHORT | "custom."column | 'custom.any column'

A field that could not be estimated is null. Comparing it gives neither true nor false but unknown,
which `not` keeps, and which `and` and `or` pass on unless their other side decides (as NULL in
SQL). Only `field == null` and `field != null` look at that itself.

Must not import numpy: a wrong condition is refused before any work.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

NUMBERS = (
    "duration_s", "sample_rate", "channels", "peak_dbfs", "clipped_samples", "speech_ratio",
    "segments", "snr_input_db", "snr_enhanced_db", "si_sdr_input_db", "si_sdr_enhanced_db",
    "pesq_input", "pesq_enhanced", "f0_median_hz", "f0_p10_hz", "f0_p90_hz", "utilisation",
    "mmac_per_s",
)  # fmt: skip
"""Fields that hold numbers, named as the columns of `report.flat`."""

WORDS = ("noise", "gender")
"""Fields that hold a word."""

CUSTOM = "custom."
"""Begins the fields of users' own probes, a column of their manifest.csv each."""

SHORT = {
    "snr_db": "snr_input_db",
    "si_sdr_db": "si_sdr_input_db",
    "pesq": "pesq_input",
    "f0_hz": "f0_median_hz",
}
"""Shorter names of some fields."""

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_TOKEN = re.compile(
    r"""\s*(?: (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
             | (?P<word>custom\.\w+ | \w+)
             | (?P<quoted>'[^']*'|"[^"]*")
             | (?P<sign><=|>=|==|!=|<|>|\(|\)) )""",
    re.VERBOSE,
)

Row = Mapping[str, Any]
_Test = Callable[[Row], bool | None]


class ConditionError(ValueError):
    """A condition that cannot be understood; the text says what can."""


class Condition:
    """A parsed condition.

    Parameters
    ----------
    text : as in "snr_db<15 and not (noise==street or speech_ratio<0.2)".

    Attributes
    ----------
    fields : the fields it reads, by their full names, in order.
    words : the fields that are taken for words with what they are compared with, but null.
    numbers : the fields that are taken for numbers, likewise.

    Raises
    ------
    ConditionError
        It does not follow the grammar, or names a field that does not exist.
    """

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        self.fields: list[str] = []
        self.words: list[tuple[str, str]] = []
        self.numbers: list[str] = []
        self._tokens = _tokens(text)
        try:
            self._test = self._either()
        except RecursionError:
            raise ConditionError("too many brackets") from None
        if self._tokens:
            self._fail(f"'and' or 'or' was expected before {self._tokens[0][1]!r}")

    def holds(self, row: Row) -> bool | None:
        """Whether it holds of a row of `report.flat`; None if a field in it is unknown."""
        return self._test(row)

    def values(self, row: Row) -> str:
        """What its fields are in the row, for people: "snr_db is 3.1, noise is null"."""
        names = {full: short for short, full in SHORT.items()}
        parts = []
        for field in dict.fromkeys(self.fields):
            value = row[field]
            parts.append(f"{names.get(field, field)} is {'null' if value is None else value}")
        return ", ".join(parts)

    # Each of these takes what it knows from the front of the tokens.

    def _either(self) -> _Test:
        tests = [self._both()]
        while self._take("or"):
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else lambda row: _decide(tests, row, True)

    def _both(self) -> _Test:
        tests = [self._single()]
        while self._take("and"):
            tests.append(self._single())
        return tests[0] if len(tests) == 1 else lambda row: _decide(tests, row, False)

    def _single(self) -> _Test:
        if self._take("not"):
            inner = self._single()
            return lambda row: None if (found := inner(row)) is None else not found
        if self._take("("):
            inner = self._either()
            if not self._take(")"):
                self._fail("a ) is missing")
            return inner
        return self._comparison()

    def _comparison(self) -> _Test:
        field = self._field(self._next("a field")[1])
        sign = self._next("an operator")[1]
        if sign not in _COMPARE:
            self._fail(f"{sign!r} is no operator; known are {' '.join(_COMPARE)}")
        kind, text = self._next("a value")
        equality = sign in ("==", "!=")
        if kind == "word" and text == "null" and equality:
            return lambda row: (row[field] is None) == (sign == "==")
        limit: str | float
        # What a field of one's own holds only the probes know; `choices.check_fields` asks them.
        if field in NUMBERS or (field.startswith(CUSTOM) and kind == "number"):
            if kind != "number":
                self._fail(f"{field} is a number, {text!r} is not")
            limit = float(text)
            self.numbers.append(field)
        else:
            if not equality:
                self._fail(f"{field} is a word, which only == and != compare")
            if kind not in ("word", "quoted"):
                self._fail(f"{field} is a word, {text!r} is not")
            limit = text
            self.words.append((field, text))
        compare = _COMPARE[sign]
        return lambda row: None if row[field] is None else compare(row[field], limit)

    def _field(self, name: str) -> str:
        full = SHORT.get(name, name)
        if full not in NUMBERS and full not in WORDS and not full.startswith(CUSTOM):
            known = ", ".join((*SHORT, *NUMBERS, *WORDS, f"{CUSTOM}COLUMN"))
            self._fail(f"no field {name!r}; known are {known}")
        self.fields.append(full)
        return full

    def _take(self, text: str) -> bool:
        # What is in quotes is never a word of the grammar.
        if self._tokens and self._tokens[0][1] == text and self._tokens[0][0] != "quoted":
            del self._tokens[0]
            return True
        return False

    def _next(self, wanted: str) -> tuple[str, str]:
        if not self._tokens:
            self._fail(f"{wanted} is missing at its end")
        return self._tokens.pop(0)

    def _fail(self, why: str) -> None:
        raise ConditionError(f"{self.text!r}: {why}; a condition is like 'snr_db<15 and pesq>=2'")


def _decide(tests: list[_Test], row: Row, deciding: bool) -> bool | None:
    """`deciding` if any test says so, else unknown if any is, else the opposite."""
    found = [test(row) for test in tests]
    if deciding in found:
        return deciding
    return None if None in found else not deciding


def _tokens(text: str) -> list[tuple[str, str]]:
    """(kind, text) of each token, without quotes."""
    found, at, text = [], 0, text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ConditionError(
                f"{text!r}: {text[at:].lstrip()[:20]!r} is not understood;"
                " a condition is like 'snr_db<15 and pesq>=2'"
            )
        kind = match.lastgroup or ""
        word = match[kind]
        found.append((kind, word[1:-1] if kind == "quoted" else word))
        at = match.end()
    return found
