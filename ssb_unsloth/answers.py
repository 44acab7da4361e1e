r"""How a final answer is read: its normal form and its structure.

    text --_spell--> one spelling of the same LaTeX --_parse--> Answer: numbers, words, lists, tuples, intervals, ...

Nothing here decides whether two answers are equal (that is `grading`), nothing here is slow, and nothing fails: every
string is read as something, at worst as a leaf that equals only itself.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from fractions import Fraction

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
    return _parse(_spell(text), thousands)


# -- One spelling -----------------------------------------------------------------------------------------------------

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\u3000\t\n\r~", " "),
        **dict.fromkeys('“”"`\0', ""),
        **{a: rf"^{{{b}}}" for a, b in zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True)},
        **{a: rf"_{{{b}}}" for a, b in zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)},
        **{a: rf"\frac{{{b}}}{{{c}}}" for a, b, c in zip("½⅓⅔¼¾⅕⅛", "1121311", "2334458", strict=True)},
        **{"×": r"\cdot ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/", "±": r"\pm ", "∓": r"\mp "},
        **{"π": r"\pi ", "θ": r"\theta ", "∞": r"\infty ", "√": r"\sqrt ", "∅": r"\emptyset ", "º": "°"},
        **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "≈": r"\approx "},
        **{"∛": r"\sqrt[3]", "≡": "="},
        **{"，": ",", "’": "'", "％": "%", "⟨": "(", "⟩": ")", "（": "(", "）": ")"},
    }
)

_ASIDE = r"(?![A-Za-z])"  # the command's name ends here
_TEXT = r"(?:text(?:bf|it|rm|sf|tt|normal|up)?|mbox|hbox|math(?:rm|bf|it|sf|tt)|operatorname\*?)"
_NUMERALS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_NUMERALS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]

_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        # Delimiters, currency, grouped digits (10,\!080 and 10{,}080 and 10\,080)
        (r"\\\$|(?<![^\s-])\$(?=\s*[\d.])", "¤"),
        (r"(?<!\\)\\[()\[\]]|\$", ""),
        (r"(?<=\d)\s*(?:,\s*\\!|\{\s*,\s*\}|(?<!\\)\\[, ])\s*(?=\d{3}(?!\d))", ""),
        (r"(?<=\d)[eE]([+-]?\d\d?)$", r"\\cdot10^{\1}"),
        # Spacing and sizes
        (rf"(?<!\\)\\[,;:!> ]|\\(?:q?quad|thinspace|displaystyle|textstyle|limits){_ASIDE}|\\(?:left|right)\.", " "),
        (rf"\\(?:left|right|middle|[bB]igg?[lrm]?){_ASIDE}|\\[hv]space\*?\{{[^{{}}]*\}}", " "),
        # Words are kept between quotation marks until it is known what they are
        (r"\\math(?:rm|bf|it|sf|tt)\s*\{\s*([A-Za-z])\s*\}", r"\1"),
        (rf"\\{_TEXT}\s*\{{([^{{}}]*)\}}", r'"\1"'),
        (r'"\s*"', " "),
        # Several names for one thing
        (rf"\\[dtc]frac{_ASIDE}", r"\\frac"),
        (r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"(\d*\.\d*)\\(?:dot|bar)\s*\{?(\d+)\}?", r"\1\\overline{\2}"),
        (rf"\\equiv{_ASIDE}", "="),
        (rf"\\[dt]binom{_ASIDE}", r"\\binom"),
        (rf"\\(?:times|ast|cdot){_ASIDE}", r"\\cdot "),
        (rf"\\div{_ASIDE}", "/"),
        (rf"\\l(?:eq|eqslant|e){_ASIDE}|<=", r"\\le "),
        (rf"\\g(?:eq|eqslant|e){_ASIDE}|>=", r"\\ge "),
        (rf"\\lt{_ASIDE}", "<"),
        (rf"\\gt{_ASIDE}", ">"),
        (rf"\\neq?{_ASIDE}|!=", r"\\ne "),
        (rf"\\(?:langle|lparen){_ASIDE}", "("),
        (rf"\\(?:rangle|rparen){_ASIDE}", ")"),
        (rf"\\lbrace{_ASIDE}", r"\\{"),
        (rf"\\rbrace{_ASIDE}", r"\\}"),
        (rf"\\lbrack{_ASIDE}", "["),
        (rf"\\rbrack{_ASIDE}", "]"),
        (rf"\\varnothing{_ASIDE}|\\\{{\s*\\\}}|^\s*\{{\s*\}}\s*$", r"\\emptyset "),
        (rf"\+\s*\\infty{_ASIDE}|(?<![\\A-Za-z])inf(?:inity)?{_ASIDE}", r"\\infty "),
        (rf"\^\s*(?:\{{\s*\\circ\s*\}}|\\circ{_ASIDE})|\\(?:text)?degree{_ASIDE}|(?<=\d)\s*deg{_ASIDE}", "°"),
        (r'\\%|(?<=[\d}\s"])(?:percent(?:age)?|pct)\b', "%"),
        (r'"\s*%\s*"', "%"),
        (rf'"?\s*(?:,\s*)?(?<![A-Za-z\\])(?:and|or){_ASIDE}\s*"?|\\(?:lor|land|vee|wedge){_ASIDE}|;', ","),
        (rf"(?<![\\A-Za-z])(?=(?:pi|(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|ln|log|exp|sqrt|infty){_ASIDE})", r"\\"),
        (r"(?<![\\A-Za-z])abs\s*\(([^()]*)\)", r"|\1|"),
        (r"\+\s*-", "-"),
        (r"\^\s*(?:\(([^()]*)\)|(-?\d{2,}|-\d))", r"^{\1\2}"),  # 2^(n+1), 2^10 and 10^-2, as in plain text
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"^\\\{\s*[a-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\\mid|:|\|)(.*)\\\}$", r"\1"),  # { x | x > 5 }
        (r'(?<=\d)[\s"]*([ap])\.?\s?m\b\.?[\s"]*$', r"\1m"),
        # The base of a numeral: (52)_8, 52_{(8)}, 52 (base 8)
        (r'^\(?\s*([\dA-F]+)\s*\)?\s*"?\s*\(?\s*(?:in )?base[\s-]*(\w+)\s*\)?\s*"?$', r"\1_{\2}"),
        (r'^\(?\s*([\dA-F]+)\s*\)?\s*_\s*\{?[\s"(]*(?:base )?(\w+)[\s")]*\}?$', r"\1_{\2}"),
        *((rf"(?<=_\{{){name}\}}$", f"{number}}}") for number, name in enumerate(_NUMERALS)),
    ]
]


_ANNOUNCED = re.compile(
    r"(?i)^(?:(?:\\text\s*\{\s*)?(?:the\s+)?(?:final\s+)?answer(?:\s+is)?[\s:}]+|=|\\approx(?![A-Za-z]))"
)


def _spell(text: str) -> str:
    """The same answer with one spelling for each construct, and without delimiters and spacing commands."""
    text = re.sub(r"^\s*\*\*(.*)\*\*\s*$", r"\1", text.translate(_CHARACTERS))  # Markdown's bold
    text = re.sub(r"\\+$", "", text.replace("**", "^").replace("*", r"\cdot ").strip())
    text = _ANNOUNCED.sub("", text)
    if len(re.findall(r"(?<!\\)\$", text)) % 2 == 0:  # in pairs they enclose formulas, else one is a currency
        text = re.sub(r"(?<!\\)\$", "", text)
    while inner := re.fullmatch(r"\$+([^$]+)\$+|\\(?:boxed|fbox)\s*\{(.*)\}", text):
        text = (inner[1] or inner[2] or "").strip()
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return text


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
    r"\s*(?:[A-Za-z]|[A-Za-z]_\{?\w\}?|\\[a-z]+(?:\s*[A-Z]+)?|[A-Za-z]\s*(?:\^\s*\{-1\}\s*)?\([a-z,\s]+\)"
    r"|\([a-z](?:\s*,\s*[a-z])+\)"
    r'|(?P<words>"[^"]*"|[A-Za-z ]{4,}))\s*'
)
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}


def _relation(text: str, thousands: bool) -> Answer | None:
    r"""`x = 5`, `x \in [2, 3]`, `2 < x \le 3`: the value, with the variable beside it. None if it is no such thing."""
    sides = split(text, "=", r"\in")
    if len(sides) > 1:
        left, right = (sides[0], sides[-1]) if _VARIABLE.fullmatch(sides[0]) else (sides[-1], sides[0])
        variable = _VARIABLE.fullmatch(left)
        if not variable or not right.strip() or re.fullmatch(r"\s*[A-Za-z]\s*=\s*[A-Za-z]\s*", text):  # `a = b`
            return None
        name = "" if variable["words"] else _compact(left)
        return replace(_parse(right, thousands), variable=name, equation=_compact(_arguments(text)))
    sides = re.split(rf"(<|>|\\(?:le|ge|ne){_ASIDE})", text)
    if len(sides) == 3 and _VARIABLE.fullmatch(sides[2]):
        sides = [sides[2], _FLIPPED[sides[1]], sides[0]]
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
    return re.sub(rf"\\mp{_ASIDE}", minus_plus, re.sub(rf"\\pm{_ASIDE}", plus_minus, text))


# -- Numbers with units -----------------------------------------------------------------------------------------------

_UNITS = {
    name: names[0]
    for names in (
        ["mm", "millimeter", "millimetre"],
        ["cm", "centimeter", "centimetre"],
        ["m", "meter", "metre"],
        ["km", "kilometer", "kilometre"],
        ["in", "inch", "inche"],
        ["ft", "foot", "feet"],
        ["yd", "yard"],
        ["mi", "mile"],
        ["g", "gram"],
        ["mg", "milligram"],
        ["kg", "kilogram"],
        ["oz", "ounce"],
        ["lb", "pound"],
        ["sec", "s", "second"],
        ["min", "minute"],
        ["hr", "h", "hour"],
        ["day"],
        ["week"],
        ["month"],
        ["year", "yr"],
        ["ml", "milliliter", "millilitre"],
        ["l", "liter", "litre"],
        ["degree", "deg"],
        ["radian", "rad"],
        ["dollar", "usd", "buck", "¤"],
        ["cent"],
        ["euro", "€"],
        ["mph"],
        ["unit"],
    )
    for name in names
}
_SIZES = {  # of units that measure the same: in meters, grams, seconds, liters, dollars
    **{"mm": ("m", "0.001"), "cm": ("m", "0.01"), "m": ("m", "1"), "km": ("m", "1000")},
    **{"in": ("m", "0.0254"), "ft": ("m", "0.3048"), "yd": ("m", "0.9144"), "mi": ("m", "1609.344")},
    **{"mg": ("g", "0.001"), "g": ("g", "1"), "kg": ("g", "1000")},
    **{"oz": ("g", "28.349523125"), "lb": ("g", "453.59237")},
    **{"sec": ("s", "1"), "min": ("s", "60"), "hr": ("s", "3600"), "day": ("s", "86400"), "week": ("s", "604800")},
    **{"ml": ("l", "0.001"), "l": ("l", "1"), "cent": ("$", "0.01"), "dollar": ("$", "1")},
}
_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")  # of degrees: these are not a unit at the end
_POWERS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cu": "^3", "cubed": "^3"}
_UNIT = re.compile(
    r'(?P<amount>.*(?:\d|[})\]]|\\pi|(?P<letter>[A-Za-z])(?=\s*")))(?P<gap>\s*)'
    r'(?:"\s*(?P<words>[^"]*[^\W\d_][^"]*)"|(?P<plain>[A-Za-z]{2,}(?:[\s/]+[A-Za-z.]+)*|[\u3400-\u9fff]+))'
    r"\s*(?:\^\s*\{?\s*(?P<power>[23])\s*\}?)?\s*",
    re.S,
)


def _quantity(text: str, thousands: bool) -> Answer | None:
    """A number with a percent sign, currency, degrees or another unit: the number, with that beside it."""
    if text.endswith("%"):
        return replace(_parse(text.rstrip("% "), thousands), is_percent=True)
    if match := re.fullmatch(r'(-?)\s*"?(?:USD?)?\s*([¤€£¥₹])(?:USD?)?"?\s*([-\d.\\(].*)', text, re.S):
        return replace(_parse(match[1] + match[3], thousands), unit=_unit(match[2], ""))
    if match := re.fullmatch(r"(.*[\d}])\s*([€£¥₹])", text, re.S):
        return replace(_parse(match[1], thousands), unit=_unit(match[2], ""))
    if (match := re.fullmatch(r'(.*\S)\s*°\s*"?\s*[CF]?\s*"?', text, re.S)) and not _ANGLE.search(text):
        return replace(_parse(match[1], thousands), unit="degree")
    if match := re.fullmatch(r"(\d\d?)(?::(\d\d))?([ap]m)", text.replace('"', "")):
        return replace(_leaf(f"{match[1]}:{match[2] or '00'}"), unit=match[3])
    if match := re.fullmatch(r"(.+?)\s*(?:\\pmod|\(\s*\\?b?mod)\s*\{?\s*(\d+)\s*\}?\s*\)?\s*", text.replace('"', "")):
        return replace(_parse(match[1], thousands), unit=f"mod {match[2]}")
    if (match := _UNIT.fullmatch(text)) and not re.search('[":]', match["amount"]):
        unit = _unit(match["words"] or match["plain"], match["power"] or "")
        # Letters without quotation marks may be variables, if they are not a known unit or words that stand apart
        plain = match["plain"] or ""
        stands_apart = (match["gap"] and re.match(r"[A-Za-z]{4,}|[A-Za-z]{2,} [A-Za-z]{2,}", plain)) or plain > "\u3400"
        if unit or (match["words"] and not match["letter"]) or stands_apart:
            return replace(_parse(match["amount"], thousands), unit=unit)
    return None


def size(answer: Answer) -> tuple[str, Fraction] | None:
    """What a number with a unit measures, and how much: ("m^2", 1/10,000) for 1 cm². None if that is not known."""
    name, _, power = answer.unit.partition("^")
    if answer.value is None or name not in _SIZES:
        return None
    base, factor = _SIZES[name]
    return base + power, answer.value * Fraction(factor) ** int(power or 1)


_LETTER_UNIT = re.compile(r"(.*[\d}])(?:(?:\s|\\[, ]|~)+([mgshLNJ])|\s*(m)(?=[²³]))\s*(\^\{?[23]\}?|[²³])?\s*", re.S)


def with_letter_unit(text: str) -> Answer | None:
    """The answer as a number with a unit of one letter, `5 m` or `5m²`, which `read` takes for a variable."""
    match = _LETTER_UNIT.fullmatch(text)
    return read(rf"{match[1]}\text{{ {match[2] or match[3]}}}{match[4] or ''}") if match else None


def _unit(words: str, power: str) -> str:
    """The unit's canonical name if it is one of a few dozen that are often confused, else ""."""
    power = f"^{power}" if power else ""
    names = []
    for word in re.findall(r"[^\W\d_]+|[¤€£]|\^\s*\{?[23]", words.lower()):
        if word in _POWERS or word.startswith("^"):
            power = _POWERS.get(word, "^" + word[-1])
        else:
            names.append(word if word in _UNITS else word.removesuffix("s"))
    return _UNITS[names[0]] + power if len(names) == 1 and names[0] in _UNITS else ""


# -- Leaves -----------------------------------------------------------------------------------------------------------

_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?:"
    rf"(?P<whole>\d+)?\\frac\{{(?P<top>-?{_DECIMAL})\}}\{{(?P<bottom>-?{_DECIMAL})\}}"
    rf"|\(?(?P<over>-?{_DECIMAL})\)?/\(?(?P<under>-?{_DECIMAL})\)?"
    rf"|(?P<decimal>{_DECIMAL})(?:\\overline\{{(?P<repeated>\d+)\}})?(?:\\cdot10\^\{{(?P<power>[+-]?\d\d?)\}})?)"
)


_MEANINGS = {
    **{name: str(number) for number, name in enumerate(_NUMERALS)},
    **dict.fromkeys(["no solution", "no solutions", "empty set"], r"\emptyset"),
    **dict.fromkeys(["all real numbers", "all reals", "real numbers", r"\mathbb{r}"], r"(-\infty, \infty)"),
}


def _leaf(text: str) -> Answer:
    if meaning := _MEANINGS.get(_without_article(text.replace('"', " "))):
        return _parse(meaning, False)
    if words := _words(text):
        return words
    text = re.sub(r"^([+-]?\d+)\s+(\d+)\s*/\s*(\d+)$", _mixed, text)
    if _ANGLE.search(text):
        text = re.sub(r"(\d+)\s*°", r"{\\frac{\1\\pi}{180}}", text)
    source = _compact(_arguments(text.replace('"', "")))
    if (match := _NUMBER.fullmatch(source)) and (value := _value(match)) is not None:
        return _number(value, source, _significant(match["decimal"]) if "." in (match["decimal"] or "") else 0)
    form = re.sub(r"(?<![\d.])(\d+\.\d*?)0+(?!\d)", r"\1", source)
    form = re.sub(r"(?<=\d)\.(?!\d)", "", re.sub(r"(?<![\d.])0+(?=\d)", "", form))
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


def half_unit(decimal: str) -> Fraction:
    r"""Half a unit in the last place of `1.25` or `1.25\cdot10^{-3}`: how far rounding may have moved it."""
    mantissa, _, power = decimal.partition(r"\cdot10^")
    return Fraction(10) ** (int(power.strip("{}") or 0) - len(mantissa.partition(".")[2])) / 2


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


def _words(text: str) -> Answer | None:
    r"""`\text{Evelyn}`, `Evelyn`, `an ellipse`: the words in lower case; a single letter (a choice) as it is."""
    plain = re.sub(r"\s+", " ", text.replace('"', " ")).strip(" .,")
    if match := re.fullmatch(r"\(?\s*([A-Za-z])\s*\)(?: [^\s(].*)?|([A-H])[.:] .+", plain):
        choice = match[1] or match[2]
        return Answer(choice, source=choice)  # `(C)`, `C)`, `(C) 12` and `C. 12` name a choice
    quoted = re.fullmatch(r'\s*("[^"]*"[\s.]*)+', text)
    if not (quoted and re.search(r"[^\W\d_]{2}", plain)) and not re.search(r"(?<![\\\w{])[^\W\d_]{4,}", plain):
        return None
    plain = _without_article(plain)
    return Answer(re.sub(r"[\s.\-']+", " ", plain).strip(), source=plain, is_words=True)


def _without_article(text: str) -> str:
    return re.sub(r"^(?:an?|the) ", "", text.casefold().strip(" .,"))


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
