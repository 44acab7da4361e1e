r"""Words and signs beside a number: units, currencies, scale words, nouns.

    2.5 \text{ million dollars} --quantity--> Quantity("2.5", unit="dollar", scale=1,000,000)

All of it works on text that `spelling.spell` has been over: words of `\text{}` stand between quotation marks there, a
dollar is `¤`. A noun that is not known (apples) is ignored; a unit is known if it is often confused with others, and
then has a canonical name ("cm^2", "km/hr") and mostly a size.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from fractions import Fraction

from .spelling import NUMERALS, TENS, spell

_NAMES = {
    name: names.split()[0]
    for names in (
        "mm millimeter millimetre",
        "cm centimeter centimetre",
        "dm decimeter decimetre",
        "m meter metre",
        "km kilometer kilometre",
        "in inch inche",
        "ft foot feet",
        "yd yard",
        "mi mile",
        "mg milligram",
        "g gram gramme",
        "kg kilogram kilo",
        "ton tonne",
        "oz ounce",
        "lb pound £ gbp",  # also the currency: the word means both
        "ms millisecond",
        "sec s second",
        "min minute",
        "hr h hour",
        "day",
        "week wk",
        "month",
        "year yr",
        "ml milliliter millilitre",
        "cl centiliter centilitre",
        "l liter litre",
        "gal gallon",
        "quart qt",
        "pint",
        "cup",
        "tbsp tablespoon",
        "tsp teaspoon",
        "acre",
        "hectare ha",
        "degree deg",
        "radian rad",
        "dollar usd buck ¤ cad aud sgd hkd nzd",
        "cent ¢",
        "euro € eur",
        "yen ¥ jpy yuan cny rmb",  # the sign means both
        "rupee ₹ rs inr pkr",
        "franc chf",
        "won krw ₩",
        "peso php mxn ₱",
        "ruble rub ₽",
        "baht thb ฿",
        "dirham aed",
        "rand zar",
        "shekel ils ₪",
        "naira ngn ₦",
        "lira ₺",
        "krona krone sek nok dkk",
        "zloty pln zł",
        "celsius",
        "fahrenheit",
        "mph",
        "kph",
        "mpg",
        "rpm",
        "mol mole",
        "bit",
        "byte",
        "unit",
    )
    for name in names.split()
}
# Their case tells them apart, and from variables
_SYMBOLS = {
    **{"N": "newton", "J": "joule", "W": "watt", "V": "volt", "K": "kelvin", "Hz": "hertz", "Pa": "pascal"},
    **{"kN": "kilonewton", "kJ": "kilojoule", "kW": "kilowatt", "MW": "megawatt", "kV": "kilovolt", "mV": "millivolt"},
    **{"kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "kPa": "kilopascal", "MPa": "megapascal"},
    **{"kB": "kilobyte", "KB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte", "mA": "milliampere"},
    **{"kWh": "kilowatthour", "cal": "calorie", "kcal": "kilocalorie", "eV": "electronvolt", "dB": "decibel"},
}
_SPELT_OUT = frozenset(_SYMBOLS.values())
_SIZES = {  # of units that measure the same: in meters, grams, seconds, liters, dollars
    **{"mm": ("m", "0.001"), "cm": ("m", "0.01"), "dm": ("m", "0.1"), "m": ("m", "1"), "km": ("m", "1000")},
    **{"in": ("m", "0.0254"), "ft": ("m", "0.3048"), "yd": ("m", "0.9144"), "mi": ("m", "1609.344")},
    **{"mg": ("g", "0.001"), "g": ("g", "1"), "kg": ("g", "1000")},
    **{"oz": ("g", "28.349523125"), "lb": ("g", "453.59237")},
    **{"ms": ("s", "0.001"), "sec": ("s", "1"), "min": ("s", "60"), "hr": ("s", "3600")},
    **{"day": ("s", "86400"), "week": ("s", "604800"), "month": ("month", "1"), "year": ("month", "12")},
    **{"ml": ("l", "0.001"), "cl": ("l", "0.01"), "l": ("l", "1")},
    **{"gal": ("gal", "1"), "quart": ("gal", "1/4"), "pint": ("gal", "1/8"), "cup": ("gal", "1/16")},
    **{"tbsp": ("gal", "1/256"), "tsp": ("gal", "1/768")},
    **{"cent": ("$", "0.01"), "dollar": ("$", "1")},
}
_CURRENCIES = {"dollar", "cent", "euro", "yen", "rupee", "franc", "won", "peso"}
_CURRENCIES |= {"ruble", "baht", "shekel", "naira", "lira", "krona", "zloty", "dirham", "rand"}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_TOKEN = re.compile(r"[^\W\d_]+|[¤€£¥₹¢₩₽฿₪₦₺₱/]|\^\s*\{?\s*-?\d|(?<=[a-z])[23](?![\d.])")


def unit_of(text: str) -> str:
    r"""The canonical name of `cm^2`, `square feet`, `km per hour`, `m/s^2`; "" for what is not known."""
    factors: dict[str, int] = {}
    sign, ahead, last = 1, 1, ""
    for symbol in _TOKEN.findall(text.replace(r"\cdot", " ")):
        token = symbol.lower()
        name = _SYMBOLS.get(symbol) or _known(token) or _known(token.removesuffix("s"))
        if token in ("/", "per"):
            sign = -1
        elif token in ("squared", "cubed") or token[0] in "^23":
            if not last:
                return ""
            power = _POWERS.get(token) or int(token.lstrip("^{ \t"))
            factors[last] += sign * (power - 1)
        elif token in _POWERS:
            ahead = _POWERS[token]
        elif name:
            factors[name] = factors.get(name, 0) + sign * ahead
            ahead, last = 1, name
        else:
            return ""
    return _canonical({name: power for name, power in factors.items() if power})


def _known(word: str) -> str | None:
    return word if word in _SPELT_OUT else _NAMES.get(word)


def _canonical(factors: dict[str, int]) -> str:
    """One name with its power, or a ratio of two measures; a price for something is its currency."""
    for scale in ("celsius", "fahrenheit"):
        if factors in ({scale: 1}, {"degree": 1, scale: 1}):
            return f"degree {scale}"

    def written(sign: int) -> str:
        named = sorted((name, abs(power)) for name, power in factors.items() if power * sign > 0)
        return " ".join(name if power == 1 else f"{name}^{power}" for name, power in named)

    above, below = written(1), written(-1)
    if not below:
        return above if len(factors) == 1 else ""
    if above in _CURRENCIES:
        return above
    measures = [
        {_SIZES[name][0] for name in factors if factors[name] * sign > 0 and name in _SIZES} for sign in (1, -1)
    ]
    is_ratio = above and all(measures) and not measures[0] & measures[1]  # hours a week are a number of hours
    return f"{above}/{below}" if is_ratio and all(name in _SIZES for name in factors) else ""


def differ(one: str, other: str) -> bool:
    """Whether two units are given and are not the same. `mph` stands beside any speed: what was meant is not known."""
    speeds = all(re.fullmatch("mph|.*/(?:hr|min|sec)", unit) for unit in (one, other))
    if one.partition(" ")[0] == other.partition(" ")[0] == "degree" in (one, other):  # of which scale is left open
        return False
    return bool(one and other and one != other and not (speeds and "mph" in (one, other)))


def in_base_unit(value: Fraction | None, unit: str) -> tuple[str, Fraction] | None:
    """What a number with a unit measures, and how much: ("m^2", 1/10,000) for 1 cm². None if that is not known."""
    above, _, below = unit.partition("/")
    measured: list[str] = []
    for names, sign in ((above, 1), (below, -1)):
        for factor in names.split():
            name, _, power = factor.partition("^")
            if value is None or name not in _SIZES:
                return None
            base, amount = _SIZES[name]
            exponent = sign * int(power or 1)
            value *= Fraction(amount) ** exponent
            if base == "l":  # 1/1000 m^3
                base, value, exponent = "m", value / Fraction(1000) ** exponent, 3 * exponent
            measured.append(f"{base}^{exponent}")
    return None if value is None or not measured else (" ".join(sorted(measured)), value)


# -- Scale words ------------------------------------------------------------------------------------------------------

_SCALES = {
    **{"tens": 10, "dozen": 12, "hundred": 100, "thousand": 1000, "lakh": 10**5, "million": 10**6, "crore": 10**7},
    **{"billion": 10**9, "trillion": 10**12, "quadrillion": 10**15},
    **{"quintillion": 10**18, "sextillion": 10**21, "septillion": 10**24, "octillion": 10**27, "googol": 10**100},
}
_PARTS = {
    name: Fraction(1, number)
    for number, names in (
        *((2, "half halve"), (3, "third"), (4, "fourth"), (5, "fifth"), (6, "sixth"), (7, "seventh"), (8, "eighth")),
        *((9, "ninth"), (10, "tenth"), (100, "hundredth"), (1000, "thousandth"), (10**6, "millionth")),
    )
    for name in names.split()
}
_NUMBERS = {
    **{name: number for number, name in enumerate(NUMERALS)},
    **{name: 10 * number for number, name in enumerate(TENS, start=2)},
}


def _scale(word: str) -> Fraction | None:
    word = word.lower()
    singular = word if word in _SCALES or word in _PARTS else word.removesuffix("s")
    return Fraction(_SCALES[singular]) if singular in _SCALES else _PARTS.get(singular)


_AND_A_PART = re.compile(r"(?:(.+) (?:and|plus) )?(?:an? |one )?(half|quarter)(?: (?:of )?(?:an? )?(\w+))?")


def number_in_words(text: str) -> Fraction | None:
    """`twenty-five`, `two hundred thousand`, `three quarters`, `a dozen`; None for everything else."""
    text = text.casefold().replace("-", " ").strip()
    if (match := _AND_A_PART.fullmatch(text)) and text != "quarter":
        whole, part, scale = match.groups()
        value = Fraction(1, 2 if part == "half" else 4)
        before = number_in_words(whole or "zero") if not (whole or "").isdecimal() else Fraction(whole)
        factor = _scale(scale) if scale else Fraction(1)
        return None if before is None or factor is None else (before + value) * factor
    words = re.sub(r"\band\b", " ", text).split()
    if len(words) > 1 and words[0] in ("a", "an"):
        words[0] = "one"
    if not words or (words[0] not in _NUMBERS and words[0] not in _SCALES):
        return None
    total, current = Fraction(0), Fraction(0)
    for place, word in enumerate(words):
        number, scale = _NUMBERS.get(word), _scale(word)
        if word in ("quarter", "quarters"):
            scale = Fraction(1, 4)
        if number is not None:
            before = current % 100
            if place and not (before == 0 or (before >= 20 and before % 10 == 0 and 0 < number < 10)):
                return None  # `two three` is no number
            current += number
        elif scale is None:
            return None
        elif scale < 1:
            return (total + current) * scale if place == len(words) - 1 else None
        elif scale in (10, 12, 100):
            current = (current if place else Fraction(1)) * scale
        else:
            total, current = total + (current if place else Fraction(1)) * scale, Fraction(0)
    return total + current


# -- A number and what stands beside it -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantity:
    amount: str  # the number's text
    unit: str = ""  # canonical; "" for a noun
    scale: Fraction = Fraction(1)  # 1,000,000 for `2 million`


_CODES = "USD|US|EUR|GBP|JPY|CNY|RMB|INR|CAD|AUD|NZD|SGD|HKD|CHF|KRW|PHP|MXN"
_CODES += "|RUB|THB|ILS|NGN|SEK|NOK|DKK|PLN|AED|PKR|SAR|ZAR|BRL|[Rr]s"
_BEFORE = re.compile(
    rf'(-?)\s*"?\s*(?:(?:US|A|C|CA|AU|NZ|HK|S|NT|R)?D?\s*([¤€£¥₹₩₽฿₪₦₺₱])\s*(?:USD?)?|((?:{_CODES})(?![A-Za-z])\.?))\s*"?\s*'
    r"([-\d.\\({].*)",
    re.S,
)
_BEHIND = re.compile(r'(.*[\d})])\s*"?\s*([¤€£¥₹¢₩₽฿₪₦₺₱])\s*"?', re.S)
_WORDS = (
    r'(?:/\s*)?(?:"[^"]*[^\W\d_][^"]*"|(?P<plain>[A-Za-z]{2,}\.?|[\u3400-\u9fff]+))(?:\s*\^\s*\{?\s*-?\d\s*\}?)?'
    r'(?:(?:\s+|\s*(?:/|\\cdot)\s*|(?="\s*/))(?:"[^"]*"|[A-Za-z]+\.?)(?:\s*\^\s*\{?\s*-?\d\s*\}?)?)*'
)
_QUANTITY = re.compile(
    rf'(?P<amount>[^":]*(?:\d|[}})\]]|\\pi|(?P<letter>[A-Za-z])(?=\s*")))(?P<gap>\s*)(?P<words>{_WORDS})\s*', re.S
)
_QUOTED = re.compile(
    r'"\s*([-+]?[¤€£¥₹]?\s*\d[\d.,/ ]*?)(?:\s+|(?![a-z]\s))([^\W\d][^"]*)"(\s*\^\s*\{?\s*[23]\s*\}?)?\s*', re.S
)
_ORDINAL = re.compile(r'"?\s*(\d*)(\d)\s*(?:\^\s*)?\{?\s*"?\s*(st|nd|rd|th)\s*"?\s*\}?\s*"?\s*')
_FRACTION = re.compile(r'\\frac\s*\{\s*"([^"]+)"\s*\}\s*\{\s*"([^"]+)"\s*\}\s*$')
# They say something about the number that is not its unit
_CHANGING = {"than", "out", "plus", "minus", "over", "divided", "multiplied", "factorial", "modulo", "mod", "choose"}
_CHANGING |= {"times", "to"}
_NOUNS = (
    "ant ape arm bag bar bat bed bee bin bit box boy bug bun bus can cap car cat cow cub day dog dot ear egg eel elf"
)
_NOUNS += (
    " elk fan fee fig fin fly fox fry gap gem gym hat hen hit hog hug ice ink inn jar jet jug key kid kit lap leg lid"
)
_NOUNS += (
    " lot man mat men mob mop mug net nut oak oar oil orb ore owl ox pad pan paw pea pen pet pie pig pin pit pod pop"
)
_NOUNS += (
    " pot pup ram rat ray red rib rod row rug set sip son spy tab tag tap tax tea tie tin tip toe top toy tub use van"
)
_NOUNS += " vat vet vow way web win yak zoo"
_SHORT_NOUNS = frozenset(_NOUNS.split())


def quantity(text: str) -> Quantity | None:
    """A number with a currency, degrees, a unit, a noun or a scale word; None for everything else."""
    if match := _BEFORE.fullmatch(text):
        return Quantity(match[1] + match[4], unit_of(match[2] or match[3]))
    if match := _BEHIND.fullmatch(text):
        return Quantity(match[1], unit_of(match[2]))
    if (match := _ORDINAL.fullmatch(text)) and _ordinal_ending(match[1], match[2]) == match[3]:
        return Quantity(match[1] + match[2])
    if (match := _QUOTED.fullmatch(text)) and (unit_of(match[2]) or not re.fullmatch(r"\w\s*", match[2])):
        text = f'{match[1]} "{match[2]}"{match[3] or ""}'
    text = _in_digits(_FRACTION.sub(r'"\1/\2"', text))
    if match := _QUANTITY.fullmatch(text):
        return _named(match)
    return None


_FIRST_WORD = re.compile(rf"(?i)[\s\"]*(?:an?|half|\d+ plus|{'|'.join([*_NUMBERS, *_SCALES])})\b")


def _in_digits(text: str) -> str:
    """`three apples` as `3 "apples"`; any other text as it is."""
    if not _FIRST_WORD.match(text):
        return text
    words = text.replace('"', " ").split()
    if number_in_words(" ".join(words)) is not None:
        return text
    for end in range(min(len(words) - 1, 8), 0, -1):
        number, rest = number_in_words(" ".join(words[:end])), words[end:]
        if number is not None:
            return text if number_in_words(rest[0]) is not None else f'{number} "{" ".join(rest)}"'
    return text


def _ordinal_ending(tens: str, ones: str) -> str:
    return "th" if tens.endswith("1") else {"1": "st", "2": "nd", "3": "rd"}.get(ones, "th")


def _named(match: re.Match[str]) -> Quantity | None:
    """The number with the words behind it, if they can be a unit, a scale or a noun."""
    phrase, plain = match["words"], match["plain"] or ""
    words = re.findall(r"[^\W\d_]+", phrase.lower())
    scale, rest = Fraction(1), phrase
    while words and (factor := _scale(words[0])):
        scale, rest = scale * factor, re.sub(rf"(?i)^(\W*){words[0]}", r"\1", rest, count=1)
        words = words[1:]
    unit = unit_of(rest)
    found = Quantity(match["amount"], unit, scale)
    if plain in _SYMBOLS and len(plain) == 2 and not match["gap"]:  # `3mA` may be a product
        return None
    if unit or (scale != 1 and not words):
        return found
    is_noun = not (_CHANGING & set(words[:-1]) or (words and words[-1] in _CHANGING - {"times"}))
    is_noun = is_noun and not set(words) <= set(_POWERS) and not re.search(r"(?<![\w^{-])\d", phrase)
    if not plain:
        return found if is_noun and not match["letter"] else None
    # Letters without quotation marks may be variables, if they are not words that stand apart
    if plain >= "\u3400" or scale != 1:
        return found if is_noun else None
    is_noun = is_noun and not any(len(word) == 1 and word != "a" for word in words)
    if phrase.startswith("/"):  # 5/hour
        return found if unit_of(phrase[1:]) else None
    stands_apart = re.match(r"[A-Za-z]{4,}|[A-Za-z]{2,}\.? [A-Za-z]{2,}", phrase) or words[0] in _SHORT_NOUNS
    return found if is_noun and match["gap"] and stands_apart else None


_GAP = r"(?:\s|\\[, ;:!]|~)"
_UPRIGHT = re.compile(r"\\(?:mathrm|mathsf|text|textrm)\s*\{\s*([mgshLNJWVAKCFHT])\s*\}")
_RATIO = re.compile(
    r"(?:\\mathrm\s*\{\s*)?\\frac\s*\{\s*([A-Za-z]{1,2})\s*\}\s*\{\s*([A-Za-z]{1,3})\s*\}(?:\s*\})?\s*$"
)
_LETTER_POWER = r"(?:\s*\^\s*\{?\s*-?\d\s*\}?)?"
_LETTER_UNIT = re.compile(
    rf"(?P<amount>.*[\d}}])(?P<gap>{_GAP}*)"
    rf"(?P<unit>[A-Za-z]{{1,2}}{_LETTER_POWER}(?:(?:{_GAP}+|\s*(?:/|\\cdot)\s*)[A-Za-z]{{1,3}}{_LETTER_POWER})?)\s*",
    re.S,
)


def with_letter_unit(text: str) -> str | None:
    r"""`5 m`, `5m^2`, `18\,\mathrm{m}^2`, `5 m/s` with the unit in `\text{}`; such letters are read as variables.

    One letter has to stand apart, or be upright, or have a power that only a unit has.
    """
    upright = _UPRIGHT.sub(r" \1", text)
    match = _LETTER_UNIT.fullmatch(_RATIO.sub(r" \1/\2", upright))
    if match is None:
        return None
    unit = re.sub(rf"[{{}}]|{_GAP}+", lambda gap: " " * (gap[0] not in "{}"), match["unit"])
    alone = re.fullmatch(r"([A-Za-z])\s*(\^\s*\{?\s*[23]\s*\}?)?", unit)
    if alone:
        stands_apart = match["gap"] and (alone[1] in "mgshLNJ" or upright != text)
        is_unit = stands_apart or (alone[1] == "m" and alone[2])
    else:
        is_unit = "/" in unit_of(unit)
    return rf"{match['amount']}\text{{ {unit}}}" if is_unit else None


_MEASURED = re.compile(r"\s*(\d+(?:\.\d+)?|\d+/\d+)\s*([A-Za-z]+)\.?\s*,?")


def totals(text: str) -> list[str]:
    r"""`1 hour 30 minutes` in its smallest and its largest unit, `90 \text{ min}` and `3/2 \text{ hr}`; or nothing."""
    if not re.search(r"\d[^\d]*[A-Za-z][^\d]*\d", text):  # nearly all
        return []
    text = spell(text).replace('"', " ")
    found = [(Fraction(amount), unit_of(name)) for amount, name in _MEASURED.findall(text)]
    sizes = [in_base_unit(Fraction(1), unit) for _, unit in found]
    if len(found) < 2 or _MEASURED.sub("", text).strip():
        return []
    known = [one for one in sizes if one is not None]
    if len(known) < len(found) or len({measured for measured, _ in known}) > 1:
        return []
    factors = [factor for _, factor in known]
    if any(larger <= smaller for larger, smaller in itertools.pairwise(factors)):
        return []
    total = sum(amount * factor for (amount, _), factor in zip(found, factors, strict=True))
    return [rf"{total / factors[place]} \text{{ {found[place][1]}}}" for place in (-1, 0)]
