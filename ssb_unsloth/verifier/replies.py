"""Where a reply's answer is: in its last box, after "the answer is", or in its last formula or number."""

from __future__ import annotations

import re

_BOX_PARTS = re.compile(
    r"\\{1,2}(?:boxed|fbox)(?![A-Za-z])\s*(?:(\{)|(-?\d[\d.,]*\d|-?\d|[A-Za-z](?![A-Za-z])))?|\\.|[{}]", re.S
)


# Where a block of thoughts begins and ends, as models write it; what ends a turn is no text behind it
_THOUGHT = r"\s?(?:[a-z]{1,9}:)?(?:think|thinking|thoughts?|reasoning|scratchpad|reflection)\s?"
THOUGHTS_BEGIN = re.compile(
    rf"(?i:<{_THOUGHT}>|\[think\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>(?!final)\w+|<\|channel>thought)"
)
THOUGHTS_END = re.compile(
    rf"(?i:</{_THOUGHT}>|\[/think\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>|<channel\|>)"
)
_PIECE = re.compile(rf"({THOUGHTS_END.pattern})|(<\|[^|<>]*\|>|</s>|\s+)|[^\s<\[◁]+|.", re.S)


def behind_thoughts(text: str) -> int:
    """Where the text behind the last `</think>` starts; 0 where there is none: then the thoughts are all there is."""
    if not THOUGHTS_END.search(text):
        return 0
    start, ended = 0, 0
    for piece in _PIECE.finditer(text):
        if piece[1]:
            ended = piece.end()
        elif not piece[2]:
            start = ended
    return start


def answer_start(text: str) -> int:
    """Where a reply's answer begins, behind its thoughts: 0 where it has none. Where nothing stands behind them, as in
    a reply that was cut off while it thought, the text's end."""
    if THOUGHTS_END.search(text):
        return behind_thoughts(text) or len(text)
    return len(text) if THOUGHTS_BEGIN.match(text.lstrip()) else 0


def answer_part(text: str) -> str:
    """A reply without its thoughts: what is graded, shown to the teacher and learnt. Empty where it only thought."""
    start = answer_start(text)
    return text[start:].lstrip() if start else text


def last_boxed(text: str) -> str | None:
    r"""The content of the last balanced `\boxed{...}` or `\fbox{...}` that holds anything, or None.

    "Last" is the last to open, so of nested boxes the innermost counts. Escaped braces do not count. A box that is
    never closed is passed over, as is an empty one (replies quote the instruction). `\boxed 42`, without braces, is
    read as it was meant: the number or the single letter that follows. A box within `<think>...</think>` counts only
    where nothing stands behind it.
    """
    found = _boxes(text)
    return text[max(found)[0] : max(found)[1]].strip() if found else None


_BESIDE = re.compile(r"(?:[\s$,.]|\\[()\[\],; ]|\\q?quad|\\text\{|\}|\b(?:and|or)\b)*")


def boxes_side_by_side(text: str) -> str:
    r"""`\boxed{3}, \boxed{5} and \boxed{7}` as one answer: the last box, after those it is enumerated with."""
    (start, end), *others = sorted(_boxes(text), reverse=True)
    contents = [text[start:end].strip()]
    for before, its_end in others:
        between = text[its_end + 1 : start].removesuffix("{").rpartition("\\")[0]
        if not re.search(",|and|or|\n", between) or not _BESIDE.fullmatch(between):
            break
        contents.append(text[before:its_end].strip())
        start = before
    return ", ".join(dict.fromkeys(contents[::-1]))


_NAME = r"([a-h]|[1-9]|i{1,3}|iv|v|vi)"
_LABEL = re.compile(
    rf"(?<![\w\\])\({_NAME}\)|(?<![\w(]){_NAME}\)|\b(?:part|case|question|problem)\s+{_NAME}\b|^\W{{0,4}}([1-9a-h])\.\s",
    re.I | re.M,
)
_VALUE_OF = re.compile(r"(?<![\\\w])([A-Za-z](?:_\{?\w\}?)?)\s*=[\s$]*\\{1,2}(?:boxed|fbox)\s*\{$")  # x = \boxed{
_LABELS = [["a", "b", "c", "d", "e", "f", "g", "h"], [*"123456789"], ["i", "ii", "iii", "iv", "v", "vi"]]


def boxes_of_parts(text: str) -> list[str]:
    r"""`(a) \boxed{3} (b) \boxed{4}`: the last box of each part, if all parts have a label and a box; or nothing."""
    boxes = sorted(_boxes(text))
    labels = [(match.end(), match[match.lastindex or 0].lower()) for match in _LABEL.finditer(text)]
    parts: dict[str, str] = {}
    place, label = 0, ""
    for start, end in boxes:
        while place < len(labels) and labels[place][0] < start:
            label, place = labels[place][1], place + 1
        if label in parts and label != next(reversed(parts)):
            return []  # back in an earlier part
        parts[label] = text[start:end].strip()
    names = [_VALUE_OF.search(text[:start][-40:]) for start, _ in boxes]
    if len(boxes) > 1 and len({name and name[1] for name in names}) == len(names) and all(names):
        return [
            f"{name[1]} = {text[start:end].strip()}" for name, (start, end) in zip(names, boxes, strict=True) if name
        ]
    is_enumerated = any(list(parts) == order[: len(parts)] for order in _LABELS)
    return list(parts.values()) if is_enumerated and len(parts) > 1 else []


_PART = re.compile(rf"(?:\\text(?:bf|rm|it)?\s*\{{\s*)?\({_NAME}\)[:\s]*\}}?|(?<!\w){_NAME}\)[:\s]")


def parts_within(answer: str) -> list[str]:
    r"""`(a) 3, (b) 4` in one box: the parts, if all have a label and something behind it; or nothing."""
    if not (first := _PART.match(answer.strip())):
        return []
    answer = answer.strip()
    labels = [first, *_PART.finditer(answer, first.end())]
    ends = [label.start() for label in labels[1:]] + [len(answer)]
    parts = [
        re.sub(
            r"^(?:\\[,;: ]|[\s~:])+|(?:\\[,;: ]|\\q?quad|\\\\|[\s,;~]|\band|\\text\s*\{\s*and\s*\})+$",
            "",
            answer[label.end() : end],
        )
        for label, end in zip(labels, ends, strict=True)
    ]
    names = [label[label.lastindex or 0].lower() for label in labels]
    is_enumerated = any(names == order[: len(names)] for order in _LABELS)
    return parts if is_enumerated and len(parts) > 1 and all(parts) else []


def _boxes(text: str) -> list[tuple[int, int]]:
    """Where the contents of all balanced boxes that hold anything start and end."""
    found: list[tuple[int, int]] = []
    opened: list[tuple[int, bool]] = []  # where each open brace's content begins, and whether the brace is a box's
    for match in _BOX_PARTS.finditer(text, behind_thoughts(text)):
        token = match[0]
        if token == "{":
            opened.append((match.end(), False))
        elif match[1]:
            opened.append((match.end(), True))
        elif match[2]:
            found.append(match.span(2))
        elif token == "}" and opened:
            start, is_box = opened.pop()
            if is_box and not text[start : match.start()].isspace() and start < match.start():
                found.append((start, match.start()))
    return found


_ANNOUNCED = re.compile(r"(?i)answer(?:\s+is\b|\s*[:=])[\s:*]*")


def announced(text: str) -> str:
    """What follows the last "answer is" or "answer:" in its sentence, or nothing."""
    sentences = _ANNOUNCED.split(text)[1:] or [""]
    return re.split(r"\n|\.(?!\d)|<\||</", sentences[-1])[0].strip(" *")[:200]


_NAMES = "pi|sqrt|exp|ln|log|sin|cos|tan|and|or"
_FORMULA = re.compile(
    rf"(?:[^A-Za-z\\]|\\[A-Za-z]+(?:\s*\{{[^{{}}]*\}})*|\\.|\b(?:{_NAMES})\b|(?<![A-Za-z])[A-Za-z](?![A-Za-z]))+"
)


def leading_formula(phrase: str) -> str | None:
    """What a phrase begins with that has no words in it: `3 + 4 = 7 apples`, `(C) because`, `$x = 5$, as`."""
    match = _FORMULA.match(phrase)
    formula = re.sub(r"(?:[\s,;:(]|\b(?:and|or|as|a|I)\b)+$", "", match[0]) if match else ""
    return formula if re.search(r"\d|\\[a-z]|^\W*[A-Z]\W*$|[=^]", formula) else None


_DIGITS = r"(?:\d{1,3}(?: \d{3})+(?!\d)|\d(?:[\d,]*\d)?)(?:\.\d+)?|\.\d+"
_NUMBER = rf"(?<![A-Za-z0-9_.])-?\s?\\?\$?(?:\d+ \d+/\d+|(?:{_DIGITS})(?:/\d+)?(?:[eE]-?\d\d?(?!\w))?)(?:\\?%)?"
_EXPRESSION = re.compile(
    r"\$\$([^$]+)\$\$|(?<!\\)\$([^$\n]*[^$\n\\])\$|\\\((.{1,500}?)\\\)|\\\[(.{1,500}?)\\\]"
    r"|([(\[](?:\s*-?[\d./]+\s*,)+\s*-?[\d./]*\d\s*[)\]])"
    rf"|(-?\\[dt]?frac\{{[^{{}}]*\}}\{{[^{{}}]*\}})|({_NUMBER})",
    re.S,
)


def last_expression(text: str) -> str | None:
    """The last formula between dollar signs or LaTeX brackets, tuple of numbers, bare fraction or number, or None."""
    found: str | None = None
    for match in _EXPRESSION.finditer(text):
        formula = match[match.lastindex or 0]
        if re.search(r"(?<![\\{A-Za-z])[A-Za-z]{3,}", formula):  # prose between two prices, not a formula
            found = next(iter(re.findall(_NUMBER, formula)[::-1]), found)
        else:
            found = formula
    return found.strip() if found else None
