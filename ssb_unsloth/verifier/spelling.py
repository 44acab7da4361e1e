r"""One spelling for answers that look the same: `\dfrac12` and `½`; `\boldsymbol{18}`, `{\bf 18}` and `18`.

    text --characters--> signs in ASCII --_without_typesetting, _SPELLINGS--> one name for each construct

Nothing here knows what an answer means. Words of `\text{}` come out between quotation marks, a dollar as `¤`.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

ASIDE = r"(?![A-Za-z])"  # a command's name ends here

# -- Characters -------------------------------------------------------------------------------------------------------

_SIGNS = str.maketrans(
    {
        **dict.fromkeys(map(chr, range(32)), ""),
        **dict.fromkeys("\t\n\r~", " "),
        **dict.fromkeys('“”„«»"`✓✔✅☑', ""),
        **dict.fromkeys("✕✖•", r"\cdot "),
        **{"\u2800": " ", "˚": "°"},
        **{"−": "-", "×": r"\cdot ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*"},
        **{"÷": "/", "⁄": "/", "∕": "/", "±": r"\pm ", "∓": r"\mp ", "∶": ":"},
        **{
            "π": r"\pi ",
            "θ": r"\theta ",
            "∞": r"\infty ",
            "√": r"\sqrt ",
            "∅": r"\emptyset ",
            "º": "°",
            "∛": r"\sqrt[3]",
        },
        **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "≈": r"\approx "},
        **{"⩽": r"\le ", "⩾": r"\ge ", "≡": "=", "∴": "", "∣": "|", "‖": r"\|", "′": "'", "’": "'"},
        **{"，": ",", "、": ",", "。": ".", "٫": ".", "٬": ",", "⟨": "(", "⟩": ")", "℃": "°C", "℉": "°F"},
        **{"㎡": "m^{2}", "㎥": "m^{3}", "㎠": "cm^{2}", "㎤": "cm^{3}", "㎢": "km^{2}"},
        **{sign: rf"\mathbb{{{letter}}}" for sign, letter in zip("ℝℤℕℚℂ", "RZNQC", strict=True)},
    }
)
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n", strict=True))


_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
_GREEK += " Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
_GREEK_LETTERS = {
    unicodedata.lookup(
        f"GREEK {'SMALL' if name.islower() else 'CAPITAL'} LETTER {name.replace('mb', 'm').upper()}"
    ): name
    for name in _GREEK.split()
} | {"ϕ": "phi"}


def characters(text: str) -> str:
    """Without characters that cannot be seen, and with plain ones for their full-width, raised and other forms."""
    if text.isascii():
        return text.translate(_SIGNS)
    text = "".join(character for character in text if not _is_hidden(character))  # they may part digits
    text = re.sub("‘([^‘’]*)’", r"\1", text)
    text = re.sub(r"([√∛∜])\s*(\d+|[A-Za-z])", lambda root: f"{_ROOTS[root[1]]}{{{root[2]}}}", text)
    text = re.sub(f"[{''.join(_RAISED)}]+", lambda match: _script("^", match[0], _RAISED), text)
    text = re.sub(f"[{''.join(_LOWERED)}]+", lambda match: _script("_", match[0], _LOWERED), text)
    text = re.sub(r"((?:\d[\u0304\u0305\u0307])+)", lambda match: rf"\overline{{{match[1][::2]}}}", text)
    return "".join(map(_plain_character, text.translate(_SIGNS)))


def _script(mark: str, characters: str, plain: dict[str, str]) -> str:
    return f"{mark}{{{''.join(plain[character] for character in characters)}}}"


@functools.cache
def _is_hidden(character: str) -> bool:
    """Whether it cannot be seen: formats, controls but for blanks, variants, and some letters and marks."""
    if character.isascii():
        return character < " " and character not in "\t\n\r"
    return (
        unicodedata.category(character) in ("Cf", "Cc", "Cn")
        or character in "\u034f\u115f\u1160\u3164\uffa0"
        or re.match("[\ufe00-\ufe0f\U000e0100-\U000e01ef]", character) is not None
    )


@functools.cache
def _plain_character(character: str) -> str:
    if character.isascii():
        return character if character >= " " else ""
    category, kind = unicodedata.category(character), unicodedata.decomposition(character).partition(">")[0]
    if category in ("Zs", "Zl", "Zp"):
        return " "
    if category == "Pd" and character not in "〜〰":
        return "-"
    if (digit := unicodedata.decimal(character, None)) is not None:
        return str(digit)
    plain = unicodedata.normalize("NFKC", character)
    if plain in _GREEK_LETTERS:
        return rf"\{_GREEK_LETTERS[plain]} "
    if kind == "<fraction" and re.fullmatch(r"\d+⁄\d+", plain):
        return r"\frac{{{}}}{{{}}}".format(*plain.split("⁄"))
    if kind == "<circle" and plain.isdecimal():
        return plain
    if (
        kind in ("<wide", "<narrow", "<font", "<square", "<small")
        and (plain.isascii() or plain in "¥£¢₩")
        and plain != "~"
    ):
        return plain
    return character


# -- Typesetting ------------------------------------------------------------------------------------------------------

TEXT = r"(?:text(?:bf|it|rm|sf|tt|sl|sc|md|normal|up)?|mbox|hbox|math(?:rm|bf|it|sf|tt|normal)|emph|operatorname\*?)"
_FONT = "bf|it|rm|sf|tt|sl|sc|em|bfseries|itshape|slshape|scshape|rmfamily|sffamily|ttfamily|normalfont|boldmath"
_SIZE = r"tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge"
_STYLE = (
    r"displaystyle|textstyle|scriptstyle|limits|centering|noindent|strut|hfill|nonumber|notag|therefore|checkmark|qed"
)
_STYLE += "|enspace|enskip|mathstrut"
_COLOUR = r"(?:\[[^\]]*\])?\s*\{[^{}]*\}"
_COMMANDS = [  # ... that change what an answer looks like, and not what it says
    (re.compile(pattern, re.S), replacement)
    for pattern, replacement in [
        (rf"\\color\s*{_COLOUR}", " "),
        (rf"\{{\s*\\(?:{_FONT}){ASIDE}\s*([^{{}}\\]*)\}}", r"\\mathrm{\1}"),
        (rf"\\(?:{_FONT}|{_SIZE}|{_STYLE}){ASIDE}", " "),
        (
            rf"^\s*\\(?:Rightarrow|implies|rightarrow|longrightarrow|to){ASIDE}|^\s*\\\\(?![A-Za-z])|\\newline{ASIDE}",
            " ",
        ),
        (r"\\(begin|end)\s*\{(?:aligned|align\*?|equation\*?|gather(?:ed)?\*?|center|split)\}", " "),
        (r"^\s*\\begin\{array\}\s*\{[lcr]\}([^&\\]*)\\end\{array\}\s*$", r"\1"),
        (r"^([^&]*)&\s*=([^&]*)$", r"\1=\2"),
        (r"\\(?:under|over)brace\s*\{([^{}]*)\}\s*[_^]\s*\{(?:[^{}]|\{[^{}]*\})*\}", r"\1"),
        (r"\\(?:tag\*?|label|[hv]?phantom|[hv]space\*?)\s*\{[^{}]*\}", " "),
        (r"\\(?:blacksquare|square|Box)\s*$", ""),
        (r"\\text(?:superscript)\s*\{([^{}]*)\}", r"^{\1}"),
        (r"\\text(?:subscript)\s*\{([^{}]*)\}", r"_{\1}"),
        (r"\\(?:SI|qty)\s*\{([^{}]*)\}\s*\{([^{}\\]*)\}", r"\1\\text{ \2}"),
        (r"\\(?:si|unit)\s*\{([^{}\\]*)\}", r"\\text{ \1}"),
    ]
]
_WRAPPER = re.compile(
    r"\\(?:boldsymbol|bm|pmb|bold|underline|uuline|uwave|uline|ensuremath|mathord|mathop|num|smash|[lr]lap|math[lrc]lap"
    r"|(?:framebox|bbox|raisebox|parbox)(?:\s*\[[^\]]*\]){1,2}|framebox|(?:scalebox|rotatebox|raisebox|parbox)\s*\{[^{}]*\}"
    r"|(?:class|cssId|style)\s*\{[^{}]*\}"
    rf"|textcolor\s*{_COLOUR}|colorbox\s*{_COLOUR}|fcolorbox\s*\{{[^{{}}]*\}}\s*\{{[^{{}}]*\}})\s*\{{"
)
_NESTED_TEXT = re.compile(rf"(\\{TEXT}\s*\{{[^{{}}]*)\\{TEXT}\s*\{{([^{{}}]*)\}}")
_BRACE = re.compile(r"\\.|[{}]", re.S)


def _without_typesetting(text: str) -> str:
    if "\\" not in text:
        return text
    for pattern, replacement in _COMMANDS:
        text = pattern.sub(replacement, text)
    while wrapper := _WRAPPER.search(text):
        end = _closing(text, wrapper.end())
        text = f"{text[: wrapper.start()]} {text[wrapper.end() : end]} {text[end + 1 :]}"
    while (flat := _NESTED_TEXT.sub(r"\1\2", text)) != text:
        text = flat
    return text


def _closing(text: str, start: int) -> int:
    """Where the brace that was opened before `start` is closed; the text's end if it is not."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return len(text)


# -- Constructs -------------------------------------------------------------------------------------------------------

NUMERALS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
NUMERALS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]

TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]

_NO_WORDS = re.compile(r"[^A-Za-z\u0370-\uffff]*\d[^A-Za-z\u0370-\uffff]*")
_SHORT_SCALES = {"k": "thousand", "K": "thousand", **dict.fromkeys(["M", "mn"], "million")}
_SHORT_SCALES |= dict.fromkeys(["B", "bn"], "billion")  # of money: 12K beside a currency

_CONSTRUCTS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    # Delimiters, currency, grouped digits (10,\!080 and 10{,}080 and 10\,080)
    (rf"\\(?:text|math)?dollar{ASIDE}(?:\{{\}})?|(?<![A-Za-z])\{{\s*\\\$\s*\}}|\\\$|(?<![^\s-])\$(?=\s*[\d.])", "¤"),
    (rf"\\(?:pounds|textsterling){ASIDE}", "£"),
    (rf"\\(?:text)?euro{ASIDE}", "€"),
    (rf"\\(?:text)?yen{ASIDE}", "¥"),
    (rf"\\(?:text)?rupee{ASIDE}", "₹"),
    (rf"\\(?:text)?cent{ASIDE}", "¢"),
    (r"(?<!\\)\\[()\[\]]|\$", ""),
    (r"(?<=\d)\s*(?:,\s*\\!|\{\s*,\s*\}|(?<!\\)\\[, ])\s*(?=\d{3}(?!\d))", ""),
    (r"(?<=\d)[eE]([+-]?\d\d?)$", r"\\cdot10^{\1}"),
    (r'([¤€£¥₹]\s*\d[\d.,]*)\s*"?\s*([kKMB]|[mb]n)\s*"?$', lambda sum_: f'{sum_[1]} "{_SHORT_SCALES[sum_[2]]}"'),
    # Spacing and sizes
    (rf"(?<!\\)\\[,;:!> ]|\\(?:q?quad|thinspace){ASIDE}|\\(?:left|right)\.", " "),
    (rf"\\(?:left|right|middle|[bB]igg?[lrm]?){ASIDE}", " "),
    (r"\s{2,}", " "),  # runs of blanks would be long to search
    # Words are kept between quotation marks until it is known what they are
    (r"(?<=[A-Za-z])\\math(?:rm|bf|it|sf|tt)\s*\{\s*([A-Za-z])\s*\}", r" \1"),
    (r"\\math(?:rm|bf|it|sf|tt)\s*\{\s*([A-Za-z])\s*\}", r"\1"),
    (rf"(\\{TEXT}\s*\{{[^{{}}]*\^)\{{\s*(-?\d)\s*\}}", r"\1\2"),
    (
        rf"\\{TEXT}\s*\{{([^{{}}]*)\}}",
        lambda text: f" {text[1]} " if _NO_WORDS.fullmatch(text[1]) else f'"{text[1]}"',
    ),
    (r'"\s*"', " "),
    # Several names for one thing
    (r"(?:\{\s*\})?\^\s*\{?(\d+)\}?\s*/\s*\{?\s*\}?_\s*\{?(\d+)\}?", r"\\frac{\1}{\2}"),
    (rf"\\(?:[dtcsx]|nice|flat|unit)frac{ASIDE}", r"\\frac"),
    (rf"\\[lr]?vert{ASIDE}", "|"),
    (rf"\\[lr]?Vert{ASIDE}", r"\\|"),
    (r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
    (r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
    (r"(\d*\.\d*)\\(?:dot|bar)\s*\{?(\d+)\}?", r"\1\\overline{\2}"),
    (rf"\\equiv{ASIDE}", "="),
    (rf"\\[lc]?dots{ASIDE}|…", r"\\ldots "),
    (rf"\\[dt]binom{ASIDE}", r"\\binom"),
    (rf"\\(?:times|ast|cdot){ASIDE}", r"\\cdot "),
    (rf"\\div{ASIDE}", "/"),
    (rf"\\l(?:eq|eqslant|e){ASIDE}|<=", r"\\le "),
    (rf"\\g(?:eq|eqslant|e){ASIDE}|>=", r"\\ge "),
    (rf"\\lt{ASIDE}", "<"),
    (rf"\\gt{ASIDE}", ">"),
    (rf"\\neq?{ASIDE}|!=", r"\\ne "),
    (rf"\\(?:langle|lparen){ASIDE}", "("),
    (rf"\\(?:rangle|rparen){ASIDE}", ")"),
    (rf"\\lbrace{ASIDE}", r"\\{"),
    (rf"\\rbrace{ASIDE}", r"\\}"),
    (rf"\\lbrack{ASIDE}", "["),
    (rf"\\rbrack{ASIDE}", "]"),
    (rf"\\varnothing{ASIDE}|\\\{{\s*\\\}}|^\s*\{{\s*\}}\s*$", r"\\emptyset "),
    (rf"\+\s*\\infty{ASIDE}|(?<![\\A-Za-z])inf(?:inity)?{ASIDE}", r"\\infty "),
    (rf"\^\s*(?:\{{\s*\\circ\s*\}}|\\circ{ASIDE})|\\(?:text)?degree{ASIDE}|(?<=\d)\s*deg{ASIDE}", "°"),
    (r'\\%|(?<=[\d}\s"])(?:per ?cent(?:age)?|pct)\b', "%"),
    (r'"\s*%\s*"', "%"),
    (r'"\s*([-+]?[\d.,]+)\s*%\s*"', r"\1%"),
    # `and` within a number, before it separates answers
    (rf"(?i)(?<=hundred|housand|million|billion) and (?=(?:{'|'.join([*NUMERALS, *TENS])})\b)", " "),
    (r"(?i)(?<=[a-z\d]) and (?=(?:an?|one) (?:half|quarter)\b)", " plus "),
    (rf'"?\s*(?:,\s*)?(?<![A-Za-z\\])(?:and|or){ASIDE}\s*"?|\\(?:lor|land|vee|wedge){ASIDE}|;', ","),
    (
        rf"(?<![\\A-Za-z])(?=(?:pi|infty|(?:(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|ln|log|exp|sqrt)(?!\s*\"?\s*$)){ASIDE})",
        r"\\",
    ),
    (r"(?<![\\A-Za-z])abs\s*\(([^()]*)\)", r"|\1|"),
    (r"\+\s*-", "-"),
    (r"\^\s*(?:\(([^()]*)\)|(-?\d{2,}|-\d))", r"^{\1\2}"),  # 2^(n+1), 2^10 and 10^-2, as in plain text
    (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"^\\\{\s*[a-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\\mid|:|\|)(.*)\\\}$", r"\1"),  # { x | x > 5 }
    # The base of a numeral: (52)_8, 52_{(8)}, 52 (base 8)
    (r'^\(?\s*([\dA-F]+)\s*\)?\s*"?\s*\(?\s*(?:in )?base[\s-]*(\w+)\s*\)?\s*"?$', r"\1_{\2}"),
    (r'^\(?\s*([\dA-F]+)\s*\)?\s*_\s*\{?[\s"(]*(?:base )?(\w+)[\s")]*\}?$', r"\1_{\2}"),
    *((rf"(?<=_\{{){name}\}}$", f"{number}}}") for number, name in enumerate(NUMERALS)),
]
_SPELLINGS = [(re.compile(pattern), replacement) for pattern, replacement in _CONSTRUCTS]


_ANNOUNCED = re.compile(
    r"(?i)^(?:(\\text\s*\{\s*)?(?:(?:the\s+)?(?:final\s+)?answer(?:\s+is)?[\s:]+"
    r"|(?:about|approximately|roughly|exactly|a total of)\s+(?=\}|\$?\d))(\})?|=|\\approx(?![A-Za-z]))"
)


def spell(text: str) -> str:
    """The same answer with one spelling for each construct, and without delimiters and spacing commands."""
    text = re.sub(r"^\s*(\*\*|\*|__|_)(.*)\1\s*$", r"\2", characters(text), flags=re.S)  # Markdown's bold and italics
    text = re.sub(r"^\s*<(b|strong|i|em|answer)>(.*)</\1>\s*$", r"\2", text, flags=re.S)
    text = re.sub(r"\s{2,}", " ", _without_typesetting(text))
    text = re.sub(r"\\+$", "", text.replace("**", "^").replace("*", r"\cdot ").strip())
    text = _ANNOUNCED.sub(lambda announced: announced[1] if announced[1] and not announced[2] else "", text)
    if len(re.findall(r"(?<!\\)\$", text)) % 2 == 0:  # in pairs they enclose formulas, else one is a currency
        text = re.sub(r"(?<!\\)\$", "", text)
    while inner := re.fullmatch(r"\$+([^$]+)\$+|\\(?:boxed|fbox)\s*\{(.*)\}", text):
        text = (inner[1] or inner[2] or "").strip()
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return text
