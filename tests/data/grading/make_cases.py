r"""Writes math500_cases.jsonl beside this file: equivalents and near misses of the 500 golds of MATH500.

Made without the grader: every rule below rewrites a gold's text by hand-written rules (or exact arithmetic of the
standard library), and knows by construction whether the result means the same. Run it with any Python:

    python tests/data/grading/make_cases.py
"""

import json
import re
from collections.abc import Iterator
from fractions import Fraction
from math import gcd
from pathlib import Path

HERE = Path(__file__).parent
Case = tuple[str, str, bool]  # kind, rewritten answer, whether it is still right


def fraction_text(value: Fraction, command: str = r"\frac") -> str:
    sign = "-" if value < 0 else ""
    if value.denominator == 1:
        return str(value)
    return rf"{sign}{command}{{{abs(value.numerator)}}}{{{value.denominator}}}"


def exact_decimal(value: Fraction) -> str | None:
    for places in range(1, 8):
        if (value * 10**places).denominator == 1:
            digits = str(abs(int(value * 10**places))).rjust(places + 1, "0")
            return ("-" if value < 0 else "") + digits[:-places] + "." + digits[-places:]
    return None


def integers(n: int) -> Iterator[Case]:
    yield "decimals", f"{n}.00", True
    yield "decimals", f"{n}.0", True
    yield "spacing", rf"\, {n} \;", True
    yield "delimiters", f"${n}$", True
    yield "period", f"{n}.", True
    yield "text", rf"\text{{{n}}}", True
    yield "text", rf"\mathbf{{{n}}}", True
    yield "units", rf"{n}\text{{ cm}}", True
    yield "units", rf"{n} \mbox{{ units}}", True
    yield "units", f"{n} apples", True
    yield "percent", rf"{n}\%", True
    yield "assignment", f"x = {n}", True
    yield "assignment", f"a+b={n}", True
    yield "fractions", rf"\frac{{{2 * n}}}{{2}}", True
    yield "fractions", rf"\dfrac{{{3 * n}}}{{3}}", True
    yield "braces", f"{{{n}}}", True
    yield "parentheses", f"({n})", True
    yield "nested box", rf"\boxed{{{n}}}", True
    if 0 <= n < 100:
        yield "leading zeros", f"{n:03d}", True
    if n > 0:
        yield "currency", rf"\${n}", True
        yield "currency", f"${n}.00", True
        yield "surds", rf"\sqrt{{{n * n}}}", True
        yield "plus sign", f"+{n}", True
    yield "off by one", str(n + 1), False
    yield "off by one", f"{n - 1}.00", False
    yield "decimals", f"{n}.5", False
    yield "units", rf"{n + 10}\text{{ cm}}", False
    yield "base", rf"{n}_{{11}}", False
    yield "fractions", rf"\frac{{{2 * n + 1}}}{{2}}", False
    yield "lists", f"{n}, {n + 1}", False
    yield "tuples", f"({n}, {n})", False
    yield "percent", rf"{n + 1}\%", False
    yield "assignment", f"x = {n + 2}", False
    yield "inequality", rf"x \ge {n}", False
    yield "plus/minus", rf"\pm {abs(n) + 1}", False
    yield "pi", rf"{n + 1}\pi", False
    if n:
        yield "sign", str(-n), False
        yield "unknowns", f"{n}x", False
        yield "magnitude", f"{n}0", False
        yield "magnitude", f"0.{abs(n)}", False
        yield "plus/minus", rf"\pm {abs(n)}", False
        yield "pi", rf"{n}\pi", False
        yield "reciprocals", rf"\frac{{1}}{{{n + (abs(n) == 1) * 2}}}", False
    if abs(n) > 1:
        yield "powers", f"{n}^2", False
        yield "surds", rf"\sqrt{{{abs(n)}}}", False
    if n > 9 and str(n)[::-1] != str(n):
        yield "digits", str(n)[:-2] + str(n)[-1] + str(n)[-2] if n % 100 // 10 != n % 10 else f"1{n}", False


def large_integers(n: int) -> Iterator[Case]:
    grouped = f"{n:,}"
    yield "thousands", grouped, True
    yield "thousands", str(n), True
    yield "thousands", grouped.replace(",", "{,}"), True
    yield "thousands", grouped.replace(",", r",\!"), True
    yield "thousands", grouped.replace(",", r"\,"), True
    yield "thousands", grouped + ".00", True
    yield "thousands", rf"\text{{{grouped}}}", True
    yield "thousands", f"{n + 1:,}", False
    yield "thousands", f"{n * 10:,}", False
    yield "thousands", grouped[:-1], False
    yield "thousands", f"({grouped})", False
    yield "thousands", grouped.replace(",", "."), False


def rationals(value: Fraction) -> Iterator[Case]:
    sign, top, bottom = "-" if value < 0 else "", abs(value.numerator), value.denominator
    yield r"\dfrac", fraction_text(value, r"\dfrac"), True
    yield r"\tfrac", fraction_text(value, r"\tfrac"), True
    yield "fractions", f"{sign}{top}/{bottom}", True
    yield "fractions", rf"\frac{{{sign}{2 * top}}}{{{2 * bottom}}}", True
    yield "fractions", rf"\left({fraction_text(value)}\right)", True
    yield "fractions", rf"{sign}\frac {{ {top} }} {{ {bottom} }}", True
    yield "fractions", rf"{sign}{{{top} \over {bottom}}}", True
    yield "assignment", f"P = {fraction_text(value)}", True
    if top < 10 and bottom < 10:
        yield "fractions", rf"{sign}\frac{top}{bottom}", True
    if value < 0:
        yield "fractions", rf"\frac{{{top}}}{{-{bottom}}}", True
    if top > bottom:
        yield "mixed numbers", rf"{sign}{top // bottom}\frac{{{top % bottom}}}{{{bottom}}}", True
        yield "mixed numbers", f"{sign}{top // bottom} {top % bottom}/{bottom}", True
        yield "mixed numbers", rf"{sign}{top // bottom + 1}\frac{{{top % bottom}}}{{{bottom}}}", False
        yield "mixed numbers", rf"{sign}\frac{{{top % bottom}}}{{{bottom}}}", False
    if (decimal := exact_decimal(value)) is not None:
        yield "decimals", decimal, True
        yield "decimals", decimal + "0", True
        yield "decimals", decimal[:-1] + str((int(decimal[-1]) + 1) % 10), False
        yield "percent", rf"{exact_decimal(value * 100) or value * 100}\%", True
        if decimal.startswith("0."):
            yield "decimals", decimal[1:], True
    else:
        yield "rounding", f"{float(value):.2f}", False
        yield "rounding", f"{float(value):.3f}", False
        yield "rounding", f"{float(value):.9f}", True
    yield "reciprocals", rf"{sign}\frac{{{bottom}}}{{{top}}}", False
    yield "sign", fraction_text(-value), False
    yield "fractions", fraction_text(Fraction(value.numerator + bottom, bottom)), False
    yield "fractions", rf"{sign}\frac{{{top}}}{{{bottom + 1}}}", False
    yield "fractions", rf"{sign}\frac{{{top + 1}}}{{{bottom}}}", False
    yield "fractions", f"{sign}{top}{bottom}", False
    yield "fractions", rf"{sign}\frac{{{top}\pi}}{{{bottom}}}", False
    yield "tuples", f"({value.numerator}, {bottom})", False


def decimals(value: Fraction, text: str) -> Iterator[Case]:
    yield "decimals", text + "0", True
    yield "decimals", text.lstrip("0") if text.startswith("0") else "0" + text, True
    yield "fractions", fraction_text(value), True
    yield "fractions", fraction_text(value, r"\dfrac"), True
    yield "units", rf"{text}\text{{ cm}}", True
    yield "decimals", text + "1", False
    yield "decimals", text[:-1], False
    yield "magnitude", exact_decimal(value / 10) or "", False
    yield "sign", "-" + text, False


def degrees(n: str) -> Iterator[Case]:
    for written in (r"{}", r"{}^{{\circ}}", r"{}°", r"{}\text{{ degrees}}", r"{} degrees", r"{}\degree", r"${}^\circ$"):
        yield "degrees", written.format(n), True
    yield "degrees", rf"\angle ABC = {n}^\circ", True
    for other in (int(n) + 1, 180 - int(n), 360 - int(n), -int(n)):
        if other != int(n):
            yield "degrees", rf"{other}^\circ", False
    yield "degrees", rf"{n}\pi", False
    yield "degrees", rf"{n}\text{{ radians}}", False


def numerals(digits: str, base: str) -> Iterator[Case]:
    names = {"5": "five", "6": "six", "8": "eight", "9": "nine"}
    yield "base", rf"{digits}_{{{base}}}", True
    yield "base", rf"{digits}_{base}", True
    yield "base", rf"({digits})_{{{base}}}", True
    yield "base", rf"{digits}_{{\text{{{names[base]}}}}}", True
    yield "base", rf"{digits}_{{({base})}}", True
    yield "base", rf"0{digits}_{{{base}}}", True
    yield "base", rf"{digits} \text{{ (base {base})}}", True
    yield "base", rf"{digits}_{{{int(base) + 1}}}", False
    yield "base", rf"{digits[::-1]}_{{{base}}}", digits == digits[::-1]
    yield "base", rf"{int(digits) + 1}_{{{base}}}", False
    yield "base", rf"-{digits}_{{{base}}}", False
    yield "base", digits, False
    yield "base", str(int(digits, int(base))), False
    yield "base", rf"{digits}^{base}", False


def surds(a: int, b: int) -> Iterator[Case]:
    """a times the root of b."""
    sign, size = "-" if a < 0 else "", abs(a)
    coefficient = "" if size == 1 else str(size)
    yield "surds", rf"{sign}{coefficient} \sqrt {{ {b} }}", True
    yield "surds", rf"{sign}\sqrt{{{size * size * b}}}", True
    yield "surds", rf"{sign}{coefficient}\cdot\sqrt{{{b}}}" if size > 1 else rf"{sign}1\sqrt{{{b}}}", True
    yield "surds", rf"{sign}{coefficient}\sqrt[2]{{{b}}}", True
    yield "surds", rf"{sign}{size} \times {b}^{{1/2}}", True
    yield "surds", rf"{sign}\frac{{{size * b}}}{{\sqrt{{{b}}}}}", True
    yield "surds", f"{sign}{coefficient}*sqrt({b})" if size > 1 else f"{sign}sqrt({b})", True
    yield "surds", f"{sign}{coefficient}√{b}" if b < 10 else f"{sign}{coefficient}√({b})", True
    yield "surds", rf"{sign}{size + 1}\sqrt{{{b}}}", False
    yield "surds", rf"{sign}{coefficient}\sqrt{{{b + 1}}}", False
    yield "surds", rf"{sign}{coefficient}\sqrt[3]{{{b}}}", False
    yield "surds", f"{sign}{size * b}", False
    yield "sign", rf"{'' if sign else '-'}{coefficient}\sqrt{{{b}}}", False
    yield "rounding", f"{a * b**0.5:.2f}", False
    if size > 1:
        yield "surds", rf"{sign}\sqrt{{{size * b}}}", False
        yield "surds", rf"{sign}{size}+\sqrt{{{b}}}", False


def pi_multiples(n: int) -> Iterator[Case]:
    yield "pi", rf"\pi \cdot {n}", True
    yield "pi", f"{n}π", True
    yield "pi", rf"{n}\cdot\pi", True
    yield "pi", rf"\frac{{{2 * n}\pi}}{{2}}", True
    yield "units", rf"{n}\pi\text{{ cm}}^2", True
    yield "pi", f"{n}pi", True
    yield "pi", str(n), False
    yield "pi", rf"{n + 1}\pi", False
    yield "pi", rf"{n}\pi^2", False
    yield "pi", rf"\frac{{\pi}}{{{n + 1}}}", False
    yield "rounding", f"{n * 3.14:.2f}", False


def tuples(parts: list[str]) -> Iterator[Case]:
    joined = ", ".join(parts)
    yield "tuples", f"({','.join(parts)})", True
    yield "tuples", rf"\left({joined}\right)", True
    yield "tuples", rf"\big( {joined} \big)", True
    yield "tuples", f"({joined}).", True
    yield "tuples", f"$({joined})$", True
    yield "tuples", joined, True
    if any("frac" in part for part in parts):
        yield "tuples", f"({joined})".replace(r"\frac", r"\dfrac"), True
    if all(re.fullmatch(r"-?\d+", part) for part in parts):
        yield "tuples", "(" + ", ".join(f"{part}.0" for part in parts) + ")", True
        yield "tuples", "(" + ", ".join(rf"\frac{{{2 * int(part)}}}{{2}}" for part in parts) + ")", True
        for place in range(len(parts)):
            changed = [str(int(part) + (place == other)) for other, part in enumerate(parts)]
            yield "tuples", "(" + ", ".join(changed) + ")", False
        yield "tuples", "(" + ", ".join(str(-int(part)) for part in parts) + ")", False
    yield "order of tuples", "(" + ", ".join(parts[::-1]) + ")", False
    yield "order of tuples", "(" + ", ".join([*parts[1:], parts[0]]) + ")", False
    yield "order of tuples", ", ".join(parts[::-1]), False
    yield "tuples", "(" + ", ".join(parts[:-1]) + ")", False
    yield "tuples", "(" + ", ".join([*parts, "0"]) + ")", False
    yield "tuples", rf"\{{{joined}\}}", False
    yield "tuples", f"[{joined}]", False


def intervals(opening: str, low: str, high: str, closing: str) -> Iterator[Case]:
    yield "intervals", rf"\left{opening}{low},{high}\right{closing}", True
    yield "intervals", f"{opening} {low} , {high} {closing}", True
    yield "intervals", rf"x \in {opening}{low}, {high}{closing}", True
    left, right = ("<" if opening == "(" else r"\leq"), ("<" if closing == ")" else r"\le")
    if "infty" in high:
        yield "inequality", f"x {'>' if opening == '(' else '>='} {low}", True
        yield "inequality", f"{low} {left} t", True
        yield "intervals", f"{opening}{low}, ∞)", True
        yield "intervals", f"{opening}-\\infty, {low})", False
        yield "inequality", f"x {left} {low}", False
    elif "infty" in low:
        yield "inequality", f"x {right} {high}", True
        yield "inequality", f"x > {high}", False
        yield "intervals", f"({high}, \\infty)", False
    else:
        yield "inequality", f"{low} {left} x {right} {high}", True
        yield "inequality", f"{low} {left} x", False
        yield "intervals", f"{opening}{high}, {low}{closing}", False
    swapped = {"(": "[", "[": "(", ")": "]", "]": ")"}
    if "infty" not in low:
        yield "intervals", f"{swapped[opening]}{low}, {high}{closing}", False
        yield "intervals", f"{opening}{low} + 1, {high}{closing}", False
    if "infty" not in high:
        yield "intervals", f"{opening}{low}, {high}{swapped[closing]}", False
        yield "intervals", f"{opening}{low}, {high} + 1{closing}", False
    yield "intervals", high if "infty" not in high else low, False


def lists(parts: list[str]) -> Iterator[Case]:
    """Solutions in any order."""
    yield "sets", r"\{" + ", ".join(parts) + r"\}", True
    yield "sets", ", ".join(parts[::-1]), True
    yield "sets", r"\left\{ " + " , ".join(parts[::-1]) + r" \right\}", True
    yield "sets", ", ".join(parts[:-1]) + r" \text{ and } " + parts[-1], True
    yield "sets", " or ".join(parts), True
    yield "sets", ", ".join(f"x = {part}" for part in parts), True
    yield "sets", ";".join(parts), True
    yield "sets", ", ".join(parts[:-1]), False
    yield "sets", ", ".join([*parts, "11"]), False
    yield "sets", ", ".join([parts[0] + "+1", *parts[1:]]), False
    yield "sets", ", ".join([*parts[:-1], "9" + parts[-1].lstrip("-")]), False
    yield "sets", "(" + ", ".join(parts[::-1]) + ")", False


def plus_minus(outer: str, inner: str) -> Iterator[Case]:
    yield "plus/minus", rf"{outer}+{inner}, {outer}-{inner}", True
    yield "plus/minus", rf"{outer}-{inner}, {outer}+{inner}", True
    yield "plus/minus", rf"\{{{outer}-{inner}, {outer}+{inner}\}}", True
    yield "plus/minus", rf"{outer} \mp {inner}", True
    yield "plus/minus", rf"x = {outer} \pm {inner}", True
    yield "plus/minus", rf"x = {outer} + {inner} \text{{ or }} x = {outer} - {inner}", True
    yield "plus/minus", f"{outer} ± {inner}", True
    yield "plus/minus", f"{outer} + {inner}", False
    yield "plus/minus", f"{outer} - {inner}", False
    yield "plus/minus", rf"-{outer} \pm {inner}", False
    yield "plus/minus", rf"{outer} \pm 2{inner}", False
    yield "plus/minus", rf"\pm {outer} + {inner}", False


def matrices(rows: list[list[str]]) -> Iterator[Case]:
    def written(rows: list[list[str]], kind: str = "pmatrix") -> str:
        return rf"\begin{{{kind}}}" + r" \\ ".join(" & ".join(row) for row in rows) + rf"\end{{{kind}}}"

    yield "matrices", written(rows), True
    yield "matrices", written(rows, "bmatrix"), True
    yield "matrices", written(rows).replace(" ", ""), True
    yield "matrices", written(rows).replace(r"\\", "\\\\\n"), True
    columns = "c" * len(rows[0])
    array = written(rows, "array").replace(r"\begin{array}", rf"\begin{{array}}{{{columns}}}")
    yield "matrices", rf"\left( {array} \right)", True
    yield "matrices", rf"\left[ {array} \right]", True
    yield "matrices", rf"A = {written(rows)}", True
    if any("/" in entry for row in rows for entry in row):
        fractions = [[re.sub(r"(\d+)/(\d+)", r"\\frac{\1}{\2}", entry) for entry in row] for row in rows]
        yield "matrices", written(fractions), True
        yield "matrices", written(fractions).replace(r"\frac", r"\dfrac"), True
    else:
        yield "matrices", written([[f"{entry}.0" for entry in row] for row in rows]), True
    for place in range(len(rows)):
        changed = [[entry + "1" for entry in row] if here == place else row for here, row in enumerate(rows)]
        yield "matrices", written(changed), False
    opposite = [[entry.removeprefix("-") if entry[0] == "-" else "-" + entry for entry in row] for row in rows]
    yield "matrices", written(opposite), False
    yield "matrices", written(rows[:-1]), False
    yield "matrices", written([*rows, ["1"] * len(rows[0])]), False
    if rows[::-1] != rows and len(rows[0]) == 1:
        yield "matrices", written(rows[::-1]), False
        yield "matrices", written([[row[0] for row in rows]]), False
    if len(rows[0]) == 1:
        yield "matrices", "(" + ", ".join(row[0] for row in rows) + ")", True


WORDS = {"Evelyn": "Carla", "east": "west", "even": "odd", "ellipse": "hyperbola", "Navin": "Kelly"}


def words(word: str) -> Iterator[Case]:
    forms = ["{}", r"\mathrm{{{}}}", r"\textbf{{{}}}", r"\text{{ {} }}", r"\text{{{}.}}", r"\mbox{{{}}}", "${}$"]
    for written in forms:
        yield "text", written.format(word), True
    yield "text", word.upper(), True
    yield "text", word.capitalize(), True
    yield "text", rf"\text{{{WORDS[word]}}}", False
    yield "text", WORDS[word], False
    yield "text", rf"\text{{not {word}}}", False
    yield "text", rf"\text{{{word[:-1]}}}", False
    yield "text", rf"\text{{{word[::-1]}}}", False
    yield "text", "".join(sorted(word)), False
    yield "text", rf"\text{{{word} or {WORDS[word]}}}", False


def choices(letter: str) -> Iterator[Case]:
    forms = ["{}", "({})", r"\text{{{}}}", r"\textbf{{({})}}", r"\mathrm{{({})}}", "{}.", r"(\text{{{}}})", "{})"]
    for written in forms:
        yield "multiple choice", written.format(letter), True
    for other in "ABCDE":
        if other != letter:
            yield "multiple choice", rf"\text{{({other})}}", False
    yield "multiple choice", rf"\text{{({letter}) and (D)}}", False
    yield "multiple choice", "12", False


def polynomials(terms: list[str]) -> Iterator[Case]:
    """A sum, given as its signed terms."""

    def joined(terms: list[str]) -> str:
        return " ".join(f"{term[0]} {term[1:]}" for term in terms).removeprefix("+ ")

    def flipped(term: str) -> str:
        return ("-" if term[0] == "+" else "+") + term[1:]

    yield "polynomials", joined(terms[::-1]), True
    yield "polynomials", joined([*terms[1:], terms[0]]), True
    yield "polynomials", joined(terms).replace(" ", ""), True
    yield "polynomials", rf"\left( {joined(terms)} \right)", True
    yield "polynomials", f"-({joined([flipped(term) for term in terms])})", True
    yield "polynomials", rf"\frac{{{joined(terms)}}}{{1}}", True
    for place in range(min(3, len(terms))):
        yield "polynomials", joined([*terms[:place], flipped(terms[place]), *terms[place + 1 :]]), False
    yield "polynomials", joined(terms[:-1]), False
    yield "polynomials", joined([*terms, "+1"]), False
    yield "polynomials", f"2({joined(terms)})", False
    yield "polynomials", rf"\frac{{1}}{{{joined(terms)}}}", False


def money(amount: str) -> Iterator[Case]:
    plain = amount.replace(",", "")
    whole = "." not in plain
    for written in (r"\${}", "${}", "{}", r"{}\text{{ dollars}}", "{} dollars", r"\text{{\${}}}", r"\$ {}"):
        yield "currency", written.format(amount), True
    yield "currency", rf"\${plain}", True
    yield "currency", rf"\${plain}.00" if whole else rf"\${plain}0", True
    yield "currency", rf"{plain}\text{{ cents}}", False
    yield "currency", rf"\${plain}5", False
    yield "currency", rf"-\${plain}", False
    yield "currency", rf"\$1{plain}", False
    yield "currency", rf"\${plain[:-1].rstrip('.') if whole else plain[:-2]}", False


UNIT_FORMS = {
    "degrees": ([r"^\circ", r"\text{ degrees}", " degrees", "°", r"\text{ deg}"], [r"\text{ radians}"]),
    "square inches": (
        [r"\text{ in}^2", r"\text{ inches}^2", r"\text{ square inches}", " square inches", r"\text{ sq in}"],
        [r"\text{ inches}", r"\text{ in}^3", r"\text{ ft}^2"],
    ),
    "square cm": (
        [r"\text{ cm}^2", r"\text{ square centimeters}", " cm^2", r"\,\mathrm{cm}^2", r"\text{ cm}^{2}", " cm²"],
        [r"\text{ cm}", r"\text{ cm}^3", r"\text{ m}^2"],
    ),
    "cents": ([r"\text{ cents}", " cents", r"\,\text{cents}", r"\text{ cent}"], [r"\text{ dollars}"]),
}


def measures(number: str, unit: str) -> Iterator[Case]:
    right, wrong = UNIT_FORMS[unit]
    for form in ["", *right]:
        yield "units", number + form, True
    for form in wrong:
        yield "units", number + form, False
    yield "units", "1" + number + right[0], False
    yield "units", "-" + number + right[0], False


# What no rule covers: gold, then right and wrong rewrites, each with its kind.
BY_HAND: dict[str, list[Case]] = {
    r"\cot x": [
        ("functions", r"\cot(x)", True),
        ("functions", r"\cot{x}", True),
        ("functions", r"\frac{\cos x}{\sin x}", True),
        ("functions", r"\frac{1}{\tan x}", True),
        ("functions", r"\cot\left(x\right)", True),
        ("functions", r"\tan x", False),
        ("functions", r"-\cot x", False),
        ("functions", r"\cot 2x", False),
        ("functions", r"\cot y", False),
    ],
    "5x - 7y + 11z + 4 = 0": [
        ("equations", "5x-7y+11z+4=0", True),
        ("equations", "5x - 7y + 11z = -4", True),
        ("equations", "-5x + 7y - 11z - 4 = 0", True),
        ("equations", "0 = 5x - 7y + 11z + 4", True),
        ("equations", "10x - 14y + 22z + 8 = 0", True),
        ("equations", "11z + 5x + 4 - 7y = 0", True),
        ("equations", "5x - 7y + 11z - 4 = 0", False),
        ("equations", "5x + 7y + 11z + 4 = 0", False),
        ("equations", "5x - 7y + 11z + 4 = 1", False),
        ("equations", "5x - 7y + 12z + 4 = 0", False),
        ("equations", "0", False),
        ("equations", "5x - 7y + 4 = 0", False),
    ],
    "y = 2x + 3": [
        ("equations", "y=2x+3", True),
        ("equations", "2x + 3", True),
        ("equations", "y = 3 + 2x", True),
        ("equations", "2x + 3 = y", True),
        ("equations", "y - 2x = 3", True),
        ("equations", "2x - y + 3 = 0", True),
        ("equations", "y = 2x - 3", False),
        ("equations", "y = 3x + 2", False),
        ("equations", "x = 2y + 3", False),
        ("equations", "y = 2x", False),
        ("equations", "y = -2x + 3", False),
        ("equations", "3", False),
    ],
    "y = -2x": [
        ("equations", "y=-2x", True),
        ("equations", "-2x", True),
        ("equations", "y = -2 x", True),
        ("equations", "2x + y = 0", True),
        ("equations", "y = 2x", False),
        ("equations", "x = -2y", False),
        ("equations", r"y = -\frac{x}{2}", False),
        ("equations", "y = -2x + 1", False),
    ],
    "x=5": [
        ("assignment", "5", True),
        ("assignment", "x = 5", True),
        ("assignment", "x=5.0", True),
        ("assignment", r"x=\frac{10}{2}", True),
        ("assignment", "5 = x", True),
        ("assignment", "y=5", False),
        ("assignment", "x=-5", False),
        ("assignment", "x=6", False),
        ("assignment", "x > 5", False),
        ("assignment", r"x \neq 5", False),
    ],
    r"\frac{11+9a}{20}": [
        ("polynomials", r"\frac{9a+11}{20}", True),
        ("polynomials", r"\frac{11}{20}+\frac{9a}{20}", True),
        ("polynomials", r"\frac{1}{20}(11+9a)", True),
        ("polynomials", "(11+9a)/20", True),
        ("polynomials", "0.55 + 0.45a", True),
        ("polynomials", r"\frac{11+9}{20}a", False),
        ("polynomials", r"\frac{11-9a}{20}", False),
        ("polynomials", r"\frac{11+9a}{2}", False),
        ("polynomials", r"\frac{11+9b}{20}", False),
        ("polynomials", r"\frac{20}{11+9a}", False),
    ],
    "(a+5)(b+2)": [
        ("polynomials", "(b+2)(a+5)", True),
        ("polynomials", "(5+a)(2+b)", True),
        ("polynomials", r"(a+5) \cdot (b+2)", True),
        ("polynomials", "ab+2a+5b+10", True),
        ("polynomials", "(a+2)(b+5)", False),
        ("polynomials", "(a-5)(b+2)", False),
        ("polynomials", "(a+5)+(b+2)", False),
        ("polynomials", "ab+2a+5b", False),
    ],
    "2k": [
        ("polynomials", r"2 \cdot k", True),
        ("polynomials", "k+k", True),
        ("polynomials", "2 k", True),
        ("polynomials", "k2", True),
        ("polynomials", "2", False),
        ("polynomials", "k", False),
        ("polynomials", "k^2", False),
        ("polynomials", "2+k", False),
        ("polynomials", "2n", False),
        ("polynomials", "2K", False),
    ],
    "5r^5": [
        ("polynomials", "5r^{5}", True),
        ("polynomials", r"5 \cdot r^5", True),
        ("polynomials", "r^5 5", True),
        ("polynomials", r"5 r^3 \times r^2", True),
        ("polynomials", "5r^4", False),
        ("polynomials", "r^5", False),
        ("polynomials", "(5r)^5", False),
        ("polynomials", "5^5 r", False),
    ],
    "3R^2": [
        ("polynomials", r"3 R^{2}", True),
        ("polynomials", r"3 R \cdot R", True),
        ("polynomials", "3R²", True),
        ("polynomials", "3R", False),
        ("polynomials", "3r^2", False),
        ("polynomials", "9R^2", False),
        ("polynomials", "3R^3", False),
    ],
    r"\frac{20000}{\pi}": [
        ("pi", r"\dfrac{20000}{\pi}", True),
        ("pi", r"20000/\pi", True),
        ("pi", r"\frac{20,000}{\pi}", True),
        ("pi", r"20000\pi^{-1}", True),
        ("pi", r"\frac{2 \times 10^4}{\pi}", True),
        ("pi", r"20000\pi", False),
        ("pi", r"\frac{2000}{\pi}", False),
        ("pi", r"\frac{\pi}{20000}", False),
        ("rounding", "6366.2", False),
    ],
    r"-\frac{\pi}{6}": [
        ("pi", r"-\pi/6", True),
        ("pi", r"\frac{-\pi}{6}", True),
        ("pi", r"-\dfrac{\pi}{6}", True),
        ("pi", r"-\frac{1}{6}\pi", True),
        ("pi", r"\frac{\pi}{-6}", True),
        ("pi", r"\frac{\pi}{6}", False),
        ("pi", r"-\frac{\pi}{3}", False),
        ("pi", r"-\frac{6}{\pi}", False),
        ("pi", r"\frac{11\pi}{6}", False),
        ("rounding", "-0.52", False),
    ],
    r"18+2\pi": [
        ("pi", r"2\pi+18", True),
        ("pi", r"2(9+\pi)", True),
        ("pi", r"18 + 2 \cdot \pi", True),
        ("pi", r"20\pi", False),
        ("pi", r"18-2\pi", False),
        ("pi", r"18+\pi", False),
        ("rounding", "24.28", False),
    ],
    r"\frac{3\sqrt{3}}{4}": [
        ("surds", r"\frac{3}{4}\sqrt{3}", True),
        ("surds", r"\dfrac{3\sqrt3}{4}", True),
        ("surds", r"3\sqrt{3}/4", True),
        ("surds", r"0.75\sqrt{3}", True),
        ("surds", r"\frac{9}{4\sqrt{3}}", True),
        ("surds", r"\frac{\sqrt{27}}{4}", True),
        ("surds", r"\frac{3\sqrt{3}}{2}", False),
        ("surds", r"\frac{3\sqrt{2}}{4}", False),
        ("surds", r"\frac{3+\sqrt{3}}{4}", False),
        ("rounding", "1.3", False),
    ],
    r"\frac{\sqrt{3}}{3}": [
        ("surds", r"\frac{1}{\sqrt{3}}", True),
        ("surds", r"\dfrac{\sqrt3}3", True),
        ("surds", r"\sqrt{3}/3", True),
        ("surds", r"\sqrt{\frac{1}{3}}", True),
        ("surds", r"\frac13\sqrt3", True),
        ("surds", "3^{-1/2}", True),
        ("surds", r"\sqrt{3}", False),
        ("surds", r"\frac{\sqrt{3}}{2}", False),
        ("surds", r"\frac{3}{\sqrt{3}}", False),
        ("surds", r"\frac{1}{3}", False),
        ("rounding", "0.577", False),
    ],
    r"\frac{\sqrt{21}}{5}": [
        ("surds", r"\frac{1}{5}\sqrt{21}", True),
        ("surds", r"\sqrt{\frac{21}{25}}", True),
        ("surds", r"\sqrt{21}/5", True),
        ("surds", r"0.2\sqrt{21}", True),
        ("surds", r"\sqrt{0.84}", True),
        ("surds", r"\frac{\sqrt{21}}{25}", False),
        ("surds", r"\sqrt{\frac{21}{5}}", False),
        ("surds", r"\frac{21}{5}", False),
    ],
    r"1+2\sqrt{3}": [
        ("surds", r"2\sqrt{3}+1", True),
        ("surds", r"1+\sqrt{12}", True),
        ("surds", r"2\sqrt3 + 1", True),
        ("surds", r"1-2\sqrt{3}", False),
        ("surds", r"3\sqrt{3}", False),
        ("surds", r"2+\sqrt{3}", False),
        ("surds", r"1\pm2\sqrt{3}", False),
    ],
    r"11 \sqrt{5} + 11": [
        ("surds", r"11(\sqrt{5}+1)", True),
        ("surds", r"11+11\sqrt{5}", True),
        ("surds", r"11(1+\sqrt5)", True),
        ("surds", r"\sqrt{605}+11", True),
        ("surds", r"22\sqrt{5}", False),
        ("surds", r"11\sqrt{5}-11", False),
        ("surds", r"11\sqrt{5+1}", False),
    ],
    ".0000672": [
        ("decimals", "0.0000672", True),
        ("decimals", r"6.72 \times 10^{-5}", True),
        ("decimals", r"6.72\cdot10^{-5}", True),
        ("decimals", r"67.2 \times 10^{-6}", True),
        ("fractions", r"\frac{672}{10000000}", True),
        ("decimals", "0.000067", False),
        ("decimals", "0.0000671", False),
        ("decimals", "0.000672", False),
        ("decimals", r"6.72 \times 10^{-6}", False),
        ("decimals", r"6.72 \times 10^{5}", False),
        ("decimals", "0", False),
    ],
    r"(0,9) \cup (9,36)": [
        ("intervals", r"(9,36) \cup (0,9)", True),
        ("intervals", r"(0, 9)\cup(9, 36)", True),
        ("intervals", r"x \in (0,9) \cup (9,36)", True),
        ("inequality", r"0 < x < 9 \text{ or } 9 < x < 36", True),
        ("intervals", r"(0,36) \setminus \{9\}", True),
        ("intervals", r"(0,36)", False),
        ("intervals", r"(0,9] \cup (9,36)", False),
        ("intervals", r"(0,9) \cap (9,36)", False),
        ("intervals", r"[0,9) \cup (9,36]", False),
        ("intervals", r"(0,9)", False),
    ],
    r"(-\infty, 2) \cup (3, \infty)": [
        ("intervals", r"(3,\infty) \cup (-\infty,2)", True),
        ("intervals", r"(-\infty,2)\cup(3,+\infty)", True),
        ("inequality", r"x < 2 \text{ or } x > 3", True),
        ("intervals", r"\mathbb{R} \setminus [2,3]", True),
        ("intervals", r"(-∞, 2) ∪ (3, ∞)", True),
        ("intervals", r"(-\infty,2] \cup [3,\infty)", False),
        ("intervals", r"(2,3)", False),
        ("intervals", r"(-\infty,3) \cup (2,\infty)", False),
        ("inequality", r"x > 2 \text{ or } x < 3", False),
        ("intervals", r"(-\infty,2)", False),
    ],
    r"(2,12) \cup (12,102)": [
        ("intervals", r"(12,102) \cup (2,12)", True),
        ("intervals", r"\left(2,12\right) \cup \left(12,102\right)", True),
        ("intervals", r"(2,102)", False),
        ("intervals", r"(2,12) \cup (12,102]", False),
        ("intervals", r"(2,12),(12,101)", False),
    ],
    "p - q": [
        ("polynomials", "p-q", True),
        ("polynomials", "-q+p", True),
        ("polynomials", "-(q-p)", True),
        ("polynomials", r"\left(p - q\right)", True),
        ("polynomials", "q-p", False),
        ("polynomials", "p+q", False),
        ("polynomials", "pq", False),
        ("polynomials", "P-Q", False),
    ],
}


def terms_of(gold: str) -> list[str] | None:
    terms = re.findall(r"[+-][^+-]+", ("" if gold.startswith("-") else "+") + gold.replace(" ", ""))
    return terms if len(terms) > 1 else None


def cases(gold: str) -> Iterator[Case]:
    number = gold.replace(" ", "").replace(r"\!", "")
    if gold in BY_HAND:
        yield from BY_HAND[gold]
    elif match := re.fullmatch(r"\\text\{\(([A-E])\)\}", gold):
        yield from choices(match[1])
    elif match := re.fullmatch(r"\\text\{(\w+)\}", gold):
        yield from words(match[1])
    elif re.fullmatch(r"-?\d+", number):
        yield from large_integers(int(number)) if int(number) >= 1000 else integers(int(number))
    elif re.fullmatch(r"\d{1,3}(,\d{3})+", number):
        yield from large_integers(int(number.replace(",", "")))
    elif match := re.fullmatch(r"(-?)\\d?frac\{?(\d+?)\}?\{?(\d+)\}?", number):
        top, bottom = (match[2], match[3]) if gcd(int(match[2]), int(match[3])) == 1 else ("0", "0")
        yield from rationals(Fraction(int(match[1] + top), int(bottom)))
    elif match := re.fullmatch(r"(\d+)\\frac\{(\d)\}\{(\d)\}", number):
        yield from rationals(int(match[1]) + Fraction(int(match[2]), int(match[3])))
    elif re.fullmatch(r"\d*\.\d+", number):
        yield from decimals(Fraction(number), number)
    elif match := re.fullmatch(r"(\d+)\^\\circ", number):
        yield from degrees(match[1])
    elif match := re.fullmatch(r"(\d+)_\{?(\d)\}?", number):
        yield from numerals(match[1], match[2])
    elif match := re.fullmatch(r"(-?)(\d*)\\sqrt\{?(\d+)\}?", number):
        yield from surds(int(match[1] + (match[2] or "1")), int(match[3]))
    elif match := re.fullmatch(r"(\d*)\\pi", number):
        yield from pi_multiples(int(match[1] or 1))
    elif match := re.fullmatch(r"\\\$([\d.,]+)", number):
        yield from money(match[1])
    elif match := re.fullmatch(r"(.+?)\\(?:text|mbox)\{(degrees|inches|cents|cm)\}(?:\^2)?", number):
        names = {"inches": "square inches", "cm": "square cm"}
        yield from measures(match[1], names.get(match[2], match[2]))
    elif number.startswith(r"\begin{pmatrix}"):
        body = gold.removeprefix(r"\begin{pmatrix}").removesuffix(r"\end{pmatrix}")
        yield from matrices([[entry.strip() for entry in row.split("&")] for row in body.split(r"\\")])
    elif match := re.fullmatch(r"(?:x\\in)?(?:\\left)?([(\[])(.+),(.+?)(?:\\right)?([)\]])", number):
        low, high = match[2], match[3]
        is_tuple = match[1] + match[4] == "()" and "infty" not in gold and "sqrt{3}" not in gold
        if is_tuple:
            yield from tuples([*low.split(","), high])
        else:
            yield from intervals(match[1], low, high, match[4])
    elif match := re.fullmatch(r"(\d)\\pm(\d?\\sqrt\{\d+\})", number):
        yield from plus_minus(match[1], match[2])
    elif re.fullmatch(r"[-\d,]+", number):
        yield from lists(number.split(","))
    elif re.fullmatch(r"\\\{.*\\\}", number):
        yield from lists([r"1+\sqrt{5}", r"1-\sqrt{5}", "-2"])
    elif (terms := terms_of(gold)) is not None:
        yield from polynomials(terms)
    else:
        raise SystemExit(f"No rule rewrites the gold {gold!r}.")


def main() -> None:
    golds = [json.loads(line)["gold"] for line in (HERE.parent / "math500" / "solutions.jsonl").open(encoding="utf-8")]
    rows, seen = [], set()
    for turn, gold in enumerate(golds):
        rewritten = [case for case in cases(gold) if case[1] and case[1] != gold]
        for expected in (True, False):
            candidates = [case for case in rewritten if case[2] is expected]
            # Two thirds of all golds are short integers: one rewrite each, in turn; of fractions and surds five
            most = 1 if re.fullmatch(r"-?\d{1,3}", gold) else 5 if re.search(r"frac|sqrt|circ|\d{4}", gold) else 99
            start = turn * most % len(candidates)
            for kind, answer, _ in (candidates + candidates)[start : start + min(most, len(candidates))]:
                if (gold, answer) not in seen:
                    seen.add((gold, answer))
                    rows.append({"gold": gold, "answer": answer, "kind": kind, "expected": expected})
    with (HERE / "math500_cases.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    right = sum(row["expected"] for row in rows)
    print(f"{right} equivalents and {len(rows) - right} near misses of {len({row['gold'] for row in rows})} golds")


if __name__ == "__main__":
    main()
