r"""How a final answer is read: its normal form and its structure.

    text --spelling.spell--> one spelling of the same LaTeX --_parse--> Answer: numbers, words, lists, tuples, ...

What stands beside a number is read in `units`. Nothing here decides whether two answers are equal (that is `equality`),
nothing here is slow, and every string is read as something, at worst as a leaf that equals only itself.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from fractions import Fraction

from .spelling import ASIDE, spell
from .units import number_in_words, quantity

MAX_LENGTH = 1000  # characters; a longer answer is not read and equals only itself


@dataclass(frozen=True)
class Answer:
    """An answer as read.

    `kind` is "leaf" (a number, expression, equation or words), "list" (any order, no brackets), "set", "union",
    "matrix" (of "row"s), or the pair of brackets around an ordered tuple or an interval: "()", "[]", "(]", "[)".
    """

    form: str  # the normal form
    kind: str = "leaf"
    parts: tuple[Answer, ...] = ()
    source: str = ""  # what the form was made from; decimals are still decimals
    equation: str = ""  # all of an equation; where it gives a value to a variable, `form` is that value
    variable: str = ""  # what the answer is the value of: "x" in `x = 5`, `x > 5` and `x \\in (5, 6)`
    value: Fraction | None = None  # of a rational number
    digits: int = 0  # significant digits of a number that was written as a decimal
    is_percent: bool = False
    is_words: bool = False
    unit: str = ""  # "cm^2"; "" if there is none, or none that is known
    is_bare: bool = True  # nothing stands beside the number, no noun either
    before_scale: Fraction | None = None  # the 2 of `2 million`


_PLAIN = re.compile(r"-?(?:[0-9]{1,15}|[0-9]{1,3}(?:,[0-9]{3}){1,4})(\.[0-9]{1,15})?")


@functools.lru_cache(maxsize=1 << 16)
def read(text: str, thousands: bool = True) -> Answer:
    """The answer as read. `thousands=False` reads `100,200` as two numbers.

    Raises:
        RecursionError: brackets are nested deeper than Python's stack allows; nothing else is raised.
    """
    if len(text) > MAX_LENGTH:
        return Answer(text.strip(), source=text.strip())
    if thousands and (plain := _PLAIN.fullmatch(text)):  # most answers
        text = text.replace(",", "")
        return _number(Fraction(text), text, _significant(text) if plain[1] else 0)
    return _parse(spell(text), thousands)


# -- Structure --------------------------------------------------------------------------------------------------------

_OPEN, _CLOSE = {"(", "[", "{", r"\{"}, {")", "]", "}", r"\}"}
_TOKEN = re.compile(r"\\begin\{\w*\*?\}|\\end\{\w*\*?\}|\\[A-Za-z]+|\\.|.", re.S)


def split(text: str, *separators: str) -> list[str]:
    """Split at separators that stand outside of all brackets; these may close as another kind, as in `[0, 1)`."""
    parts, start, depth = [], 0, 0
    for token in _TOKEN.finditer(text):
        if token[0] in _OPEN or token[0].startswith(r"\begin{"):
            depth += 1
        elif token[0] in _CLOSE or token[0].startswith(r"\end{"):
            depth -= 1
        elif depth <= 0 and token[0] in separators:
            parts.append(text[start : token.start()])
            start = token.end()
    return [*parts, text[start:]]


def _encloses(text: str, opening: str, closing: str) -> bool:
    """Whether the brackets at the text's two ends are a pair."""
    if not (text.startswith(opening) and text.endswith(closing)):
        return False
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in _OPEN) - (token[0] in _CLOSE)
        if depth == 0:
            return token.end() == len(text)
    return False


def _parse(text: str, thousands: bool) -> Answer:
    text = re.sub(r"(?<!\.)[.,]\s*$", "", text.replace('"', " ") if text.count('"') % 2 else text).strip()
    if thousands and not re.search(r"[(\[]|\\\{|\\begin", text):
        text = re.sub(r"(?<![\d.,_])\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?!,?\d)", _joined, text)
    if len(parts := [part for part in split(text, ",") if part.strip(' "')]) > 1:
        return _collection("list", _parse_all(parts, thousands))
    return _relation(text, thousands) or _quantity(text, thousands) or _bracketed(text) or _leaf(text)


def _joined(digits: re.Match[str]) -> str:
    return re.sub("[, ]", "", digits[0])


def _parse_all(texts: list[str], thousands: bool = False) -> list[Answer]:
    return [_parse(text, thousands) for text in texts]


_COLLECTIONS = {
    "list": ("", ", ", ""),
    "set": (r"\{", ", ", r"\}"),
    "union": ("", r" \cup ", ""),
    "row": ("", " & ", ""),
    "matrix": (r"\begin{matrix}", r" \\ ", r"\end{matrix}"),
    **{brackets: (brackets[0], ", ", brackets[1]) for brackets in ("()", "[]", "(]", "[)")},
}


def _collection(kind: str, answers: list[Answer]) -> Answer:
    """Several answers as one. The forms of lists, sets and unions do not depend on the order."""
    if kind in ("list", "set"):  # {1 ± √5, -2} has three elements, and {5} is 5
        answers = [part for answer in answers for part in (answer.parts if answer.kind == "list" else [answer])]
        if len(answers) == 1:
            return answers[0]
    forms = [answer.form for answer in answers]
    if kind in ("list", "set", "union"):
        forms = sorted(set(forms))
    opening, separator, closing = _COLLECTIONS[kind]
    source = opening + separator.join(answer.source for answer in answers) + closing
    return Answer(opening + separator.join(forms) + closing, kind, tuple(answers), source)


_VARIABLE = re.compile(
    r"\s*(?:[A-Za-z]|[A-Za-z]_\{?\w+\}?|m?\\[a-z]+(?:\s*[A-Z]+)?|[A-Za-z]\s*(?:\^\s*\{-1\}\s*)?\([\w,\s]+\)"
    r"|\([a-z](?:\s*,\s*[a-z])+\)"
    # Lengths and the like, which have capital letters: AB, |AB|, \overline{AB}, [ABC], S_{ABC}; a norm
    r"|[A-Z]{2,3}|\|\s*[A-Z]{1,3}(?:\s*\\(?:cup|cap|times|setminus)\s*[A-Z])*\s*\||\[[A-Z]{3,6}\]"
    # Values of functions: f(g(1)), P(A \cup B), \gcd(12, 18)
    r"|(?:[fghPE]'*|\\(?:gcd|det|max|min)|\"?(?:lcm|gcd|Var)\"?)\s*\((?:[^()]|\([^()]*\))*\)"
    r"|\d+\s*!|\\binom\{\d+\}\{\d+\}"
    r"|m?\|?\s*\\(?:overline|overrightarrow|vec|widehat|bar)\s*\{\s*[A-Za-z]+\s*\}\s*\|?|\\\|[\sA-Za-z]+\\\|"
    r'|(?P<words>"[^"]*"|[A-Za-z ]{4,}))\s*'
)
_NEGATED = re.compile(r"\s*-\s*\(?\s*([A-Za-z](?:_\{?\w+\}?)?|\\(?!pi|infty)[a-z]+)\s*\)?\s*")
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}


def _relation(text: str, thousands: bool) -> Answer | None:
    r"""`x = 5`, `x \in [2, 3]`, `2 < x \le 3`: the value, with the variable beside it. None if it is no such thing."""
    sides = split(text, "=", r"\in")
    if len(sides) == 2 and (negated := _NEGATED.fullmatch(sides[0])) and len(split(text, "=")) == 2:  # `-x = 5`
        sides = [negated[1], _negative(sides[1])]
        text = "=".join(sides)
    if len(sides) > 1:
        is_turned = not _VARIABLE.fullmatch(sides[0]) and len(split(text, r"\in")) == 1  # `5 = x`
        left, right = (sides[-1], sides[0]) if is_turned else (sides[0], sides[-1])
        variable = _VARIABLE.fullmatch(left)
        if not variable or not right.strip() or re.fullmatch(r"\s*[A-Za-z]\s*=\s*[A-Za-z]\s*", text):  # `a = b`
            return None
        name = "" if variable["words"] else _compact(left)
        if segment := re.fullmatch(r"\|?(?:\\overline\{)?([A-Z]{2})\}?\|?", name):
            name = "".join(sorted(segment[1]))  # |AB|, AB and BA are one length
        return replace(_parse(right, thousands), variable=name, equation=_compact(_arguments(text)))
    sides = _arranged(re.split(rf"(<|>|\\(?:le|ge|ne){ASIDE})", text))
    if len(sides) == 3 and _VARIABLE.fullmatch(sides[0]):
        name, sign, bound = sides
        if sign == r"\ne":
            below, above = _parse_all([rf"(-\infty, {bound})", rf"({bound}, \infty)"])
            return replace(_collection("union", [below, above]), variable=_compact(name))
        low, high = (bound, r"\infty") if sign in (">", r"\ge") else (r"-\infty", bound)
        brackets = ("[" if sign == r"\ge" else "(") + ("]" if sign == r"\le" else ")")
    elif len(sides) == 5 and _VARIABLE.fullmatch(sides[2]):
        low, first, name, second, high = sides
        if first in (">", r"\ge"):
            low, first, second, high = high, _FLIPPED[second], _FLIPPED[first], low
        if not {first, second} <= {"<", r"\le"}:
            return None
        brackets = ("(" if first == "<" else "[") + (")" if second == "<" else "]")
    else:
        return None
    return replace(_collection(brackets, _parse_all([low, high])), variable=_compact(name))


def _term(side: str) -> str | None:
    """The variable of `x` and of `-x`; None for everything else."""
    found = _NEGATED.fullmatch(side) or _VARIABLE.fullmatch(side)
    name = side.strip(" -()") if found else ""
    return None if name in ("", "e", r"\pi", r"\infty") else name


def _arranged(sides: list[str]) -> list[str]:
    """An inequality with its variable on the left (of two, the first by name), multiplied by -1 if it has a minus."""
    if len(sides) == 3:
        left, right = _term(sides[0]), _term(sides[2])
        if right and (left is None or right < left):
            sides = [sides[2], _FLIPPED[sides[1]], sides[0]]
    variable = len(sides) // 4 * 2  # the middle of three
    if len(sides) in (3, 5) and _term(sides[variable]) and _NEGATED.fullmatch(sides[variable]):
        sides = [_FLIPPED[side] if place % 2 else _negative(side) for place, side in enumerate(sides)]
    return sides


def _negative(text: str) -> str:
    if negated := _NEGATED.fullmatch(text):
        return negated[1]
    is_sum = re.search(r"[-+]", text.strip()[1:])
    return f"-({text})" if is_sum else text.strip()[1:] if text.strip().startswith("-") else f"-{text.strip()}"


def _bracketed(text: str) -> Answer | None:
    r"""Unions, sets, tuples, intervals, matrices, `\pm`; None for everything else."""
    if len(pieces := split(text, r"\cup")) > 1:
        return _collection("union", _parse_all(pieces))
    if _encloses(text, r"\{", r"\}"):
        return _collection("set", _parse_all(split(text[2:-2], ",")))
    if _encloses(text, "{", "}"):
        return _parse(text[1:-1], True)
    for brackets in ("()", "[]", "(]", "[)"):
        if _encloses(text, *brackets):
            parts = split(text[1:-1], ",")
            if len(parts) == 1 and (brackets == "()" or text[1:].lstrip().startswith(r"\begin")):
                return _parse(text[1:-1], True)
            if len(parts) == 2 or (len(parts) > 2 and brackets in ("()", "[]")):
                return _collection(brackets, _parse_all(parts))
    if matrix := re.fullmatch(r"\\begin\{([pbB]?matrix|array)\}\s*(?:\{[lcr|\s]*\})?(.*)\\end\{\1\}", text, re.S):
        rows = [split(row, "&") for row in split(matrix[2], r"\\") if row.strip()]
        return _collection("matrix", [_collection("row", _parse_all(row)) for row in rows])
    if len(split(text, r"\pm", r"\mp")) > 1:
        return _collection("list", _parse_all([_with_sign(text, "+", "-"), _with_sign(text, "-", "+")]))
    return None


def _with_sign(text: str, plus_minus: str, minus_plus: str) -> str:
    return re.sub(rf"\\mp{ASIDE}", minus_plus, re.sub(rf"\\pm{ASIDE}", plus_minus, text))


# -- Numbers with something beside them -------------------------------------------------------------------------------

_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")  # of degrees: these are not a unit at the end
_TIME = re.compile(r'[\s"]*(\d\d?)(?::(\d\d))?([\s"]*)([ap])\.?\s?m\.?[\s"]*', re.I)


def _quantity(text: str, thousands: bool) -> Answer | None:
    """A number with a percent sign, degrees, half of the day, modulus or unit: the number, with that beside it."""
    if text.endswith("%"):
        return replace(_parse(text.rstrip("% "), thousands), is_percent=True, is_bare=False)
    if (match := re.fullmatch(r'(.*\S)\s*°\s*"?\s*([CF]?)\s*"?', text, re.S)) and not _ANGLE.search(text):
        scale = {"C": " celsius", "F": " fahrenheit"}.get(match[2], "")
        return replace(_parse(match[1], thousands), unit=f"degree{scale}", is_bare=False)
    if (match := _TIME.fullmatch(text)) and (match[2] or match[3] or match[4].islower()):  # `2AM` may be a product
        return replace(_leaf(f"{match[1]}:{match[2] or '00'}"), unit=f"{match[4].lower()}m")
    if match := re.fullmatch(r"(.+?)\s*(?:\\pmod|\(\s*\\?b?mod)\s*\{?\s*(\d+)\s*\}?\s*\)?\s*", text.replace('"', "")):
        return replace(_parse(match[1], thousands), unit=f"mod {match[2]}", is_bare=False)
    if found := quantity(text):
        answer = _scaled(_parse(found.amount, thousands), found.scale)
        return replace(answer, unit=found.unit or answer.unit, is_bare=False)
    return None


def _scaled(answer: Answer, scale: Fraction) -> Answer:
    """`2 million` is 2,000,000; what stood before the word is kept beside it."""
    if scale == 1:
        return answer
    if answer.value is None:
        return _leaf(rf"{_number(scale, '').form}\cdot({answer.source})")
    number = _number(answer.value * scale, "")
    return replace(number, source=number.form, before_scale=answer.value)


# -- Leaves -----------------------------------------------------------------------------------------------------------

_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?:"
    rf"(?P<whole>\d+)?\\frac\{{(?P<top>-?{_DECIMAL})\}}\{{(?P<bottom>-?{_DECIMAL})\}}"
    rf"|\(?(?P<over>-?{_DECIMAL})\)?/\(?(?P<under>-?{_DECIMAL})\)?"
    rf"|(?P<decimal>{_DECIMAL})(?:\\overline\{{(?P<repeated>\d+)\}})?(?:\\cdot10\^\{{(?P<power>[+-]?\d\d?)\}})?)"
)


_MEANINGS = {
    **dict.fromkeys(["no solution", "no solutions", "empty set"], r"\emptyset"),
    **dict.fromkeys(["all real numbers", "all reals", "real numbers", r"\mathbb{r}"], r"(-\infty, \infty)"),
}


def _leaf(text: str) -> Answer:
    bare = text.replace('"', " ")
    if meaning := _MEANINGS.get(_without_article(bare)):
        return _parse(meaning, False)
    if (number := number_in_words(bare.strip(" ."))) is not None:
        return _number(number, _number(number, "").form)
    if words := _words(text):
        return words
    text = re.sub(r"^([+-]?\d+)\s+(\d+)\s*/\s*(\d+)$", _mixed, text)
    if _ANGLE.search(text):
        text = re.sub(r"(\d+)\s*°", r"{\\frac{\1\\pi}{180}}", text)
    source = _compact(_arguments(text.replace('"', "")))
    if (match := _NUMBER.fullmatch(source)) and (value := _value(match)) is not None:
        return _number(value, source, _significant(match["decimal"]) if "." in (match["decimal"] or "") else 0)
    form = re.sub(r"(?<![\d.])(\d+\.\d*?)0+(?!\d)", r"\1", source)
    form = re.sub(r"(?<=\d)\.(?!\d)", "", re.sub(r"(?<![\d.:])0+(?=\d)", "", form))
    form = re.sub(r"(?<!\d)\.(?=\d)", "0.", form).removeprefix("+")
    return Answer(form, source=source, equation=form if len(split(form, "=")) > 1 else "")


def _mixed(number: re.Match[str]) -> str:
    whole, top, bottom = number.groups()
    return rf"{whole}\frac{{{top}}}{{{bottom}}}" if int(top) < int(bottom) else number[0]


def _number(value: Fraction, source: str, digits: int = 0) -> Answer:
    sign, top, bottom = "-" * (value < 0), abs(value.numerator), value.denominator
    form = f"{sign}{top}" if bottom == 1 else rf"{sign}\frac{{{top}}}{{{bottom}}}"
    return Answer(form, source=source, value=value, digits=digits)


def _significant(decimal: str) -> int:
    return len(decimal.replace(".", "").lstrip("-0"))


_FLOAT_DIGITS = 15  # that a float holds; the one or two behind them are its rounding errors, as in 0.30000000000000004


def is_float(digits: int) -> bool:
    """Whether a decimal with so many significant digits was printed by a computer."""
    return _FLOAT_DIGITS < digits <= _FLOAT_DIGITS + 2


def half_unit(decimal: str) -> Fraction:
    r"""Half a unit in the last place of `1.25` or `1.25\cdot10^{-3}`: how far rounding may have moved it.

    A float's last place is its 15th digit.
    """
    mantissa, _, power = decimal.partition(r"\cdot10^")
    places = len(mantissa.partition(".")[2])
    if is_float(digits := _significant(mantissa)):
        places -= digits - _FLOAT_DIGITS
    return Fraction(10) ** (int(power.strip("{}") or 0) - places) / 2


def _value(match: re.Match[str]) -> Fraction | None:
    """The rational number that `_NUMBER` matched; None if it is none, like 1/0."""
    top, bottom = match["top"] or match["over"], match["bottom"] or match["under"]
    if top:
        if Fraction(bottom) == 0:
            return None
        value = Fraction(top) / Fraction(bottom)
        if match["whole"]:  # a mixed number has a proper fraction; anything else is no number at all
            if not 0 <= value < 1:
                return None
            value += int(match["whole"])
    else:
        value = Fraction(match["decimal"]) * Fraction(10) ** int(match["power"] or 0)
        if match["repeated"]:
            if "." not in match["decimal"]:
                return None
            places = len(match["decimal"].partition(".")[2])
            value += Fraction(int(match["repeated"]), 10**places * (10 ** len(match["repeated"]) - 1))
    return -value if match["sign"] == "-" else value


_CHOICE = re.compile(
    r"(?i:(?:the )?(?:correct |right )?(?:option|choice|answer)(?: is)?:?) ?\(?([A-H]|[b-h](?!\w))\)?"
    r"(?:[.:)] .+| [^\w(].*)?"
)
# Two or three letters without quotation marks are a product of variables otherwise
_WORDS = """
    al am at bo by do ed go he if in is it jo me my no ok on so to ty up us we abe ada add age ago aid aim air
    ali all amy ann ant any ape apr arm art ash ask ate aug ava bad bag bar bat bay bed bee ben bet bid big bit
    bob bow box boy bug bun bus buy cal can cap car cat cow cry cup cut dad dan day dec dee did die dig dim dip
    dog don dot dry due dug dye ear eat egg eli elm end era eva eve eye fan far fat fay feb fed fee few fig fin
    fir fit fix fly fog for fox fri fun fur gap gas gem get gum gun gus guy gym had hal ham has hat hay hen her
    hid him hip his hit hog hop hot how hug hut ian ice ida ike ill ink inn ira its ivy jam jan jar jaw jay jen
    jet jim job joe jon joy jul jun kay ken key kid kim kip kit lab lap law lay lee leg leo let lid lie lip liz
    lot lou low lyn mad man map mar mat max may meg mel men met mia mix mom mon mud mug nan nat nay ned net new
    nor not nov now nut oak oct odd off oil old one our out owl own pad pam pan pat paw pay pea peg pen pet pie
    pig pin pit pot put ran rat raw ray red rex rib rid rim rip rob rod ron rot row roy rub rug run sad sal sam
    sat saw say sea see sep set sew she sid sip sir sit ski sky sly sob son sue sun tab tad tag tan tap tar tax
    tea ted the thu tie tim tin tip tod toe tom ton too top toy try tub tue two una use val van vet vic vow wag
    war was wax way web wed wes wet who why wig win yea yep yes yet you zip zoe zoo lime nope true
    """
_SHORT_WORDS = frozenset(_WORDS.split())


def _words(text: str) -> Answer | None:
    r"""`\text{Evelyn}`, `Evelyn`, `an ellipse`: the words in lower case; a single letter (a choice) as it is."""
    plain = re.sub(r"\s+", " ", text.replace('"', " ")).strip(" .,")
    plain = re.sub(r"(?<=[A-Za-z]{2})!+$", "", plain)
    if match := _CHOICE.fullmatch(plain):
        return Answer(match[1].upper(), source=match[1].upper())
    if match := re.fullmatch(r"\(?\s*([A-Za-z])\s*\)(?: [^\s(].*)?|([A-H])[.:] .+", plain):
        choice = match[1] or match[2]
        return Answer(choice, source=choice)  # `(C)`, `C)`, `(C) 12` and `C. 12` name a choice
    quoted = re.fullmatch(r'\s*("[^"]*"[\s.]*)+', text)
    bare = _without_article(plain)
    is_word = re.search(r"(?<![\\\w{])[^\W\d_]{4,}", plain) or re.fullmatch(r"(?i:the) [a-z]{2,}", plain)
    is_word = is_word or re.fullmatch(r"[^\W\d_]*[^\x00-\x7f\W\d_][^\W\d_]*", plain)  # Zoë: no variables
    if is_word or bare in _SHORT_WORDS or (quoted and re.search(r"[^\W\d_]{2}", plain)):
        return Answer(re.sub(r"[\s.\-']+", " ", bare).strip(), source=bare, is_words=True)
    return None


def _without_article(text: str) -> str:
    return re.sub(r"^(?:an?|the) ", "", text.casefold().strip(" .,!"))


def _compact(text: str) -> str:
    """Without white space, but for a blank between a command and a letter, and between two digits."""

    def blank(match: re.Match[str]) -> str:
        before, after = match[1], match[2]
        needed = (before.startswith("\\") and after.isalpha()) or (before.isdigit() and after.isdigit())
        return before + (" " if needed else "")

    return re.sub(r"(\\[A-Za-z]+|\S)\s+(?=(\S))", blank, text.strip())


def _arguments(text: str) -> str:
    r"""Braces around the arguments of `\frac`, `\sqrt`, `^` and `_`, also where LaTeX lets them be left out."""
    text = re.sub(r"(\\sqrt\s*(?:\[[^\]]*\])?|[\^_])\s*(?![\s{\[])(\\[A-Za-z]+(?!\s*\{)|[^\s\\])", r"\1{\2}", text)
    text = re.sub(r"\\frac\s*([^\s{\\]|\\[a-z]+(?=\s))\s*", r"\\frac{\1}", text)
    numerator = r"\\frac\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
    return re.sub(rf"({numerator})\s*([^\s{{\\]|\\[a-z]+(?!\s*\{{))", r"\1{\2}", text)
