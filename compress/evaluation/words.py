"""Splits text in any script into words for comparing answers. Standard library only.

What counts as one word:

* initials with full stops, as one (`U.S.` is `US`, `J. K.` is `JK`);
* letters with their combining marks, and the digits after them (`mp3`, `v1.5`); `+`, `#` and a final `-` stay with them
  (`C++`, `C#`, `O-`);
* a number with its sign, separators and fraction in one spelling (`1,000` is `1000`, `.50` is `0.5`, `½` is `1/2`); a
  unit written against it is a word of its own (`5km`);
* one character of a script that is written without spaces (Chinese, Japanese, Thai …), a run of katakana or hangul.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache

# Scripts without spaces: word boundaries are unmarked, so every character is a word.
_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf"  # Tibetan, Myanmar, Khmer, Tai
    "\ua980-\ua9df\uaa60-\uaadf"  # Javanese, Myanmar, Tai Viet
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3041-\u309f\u3105-\u312f"  # hiragana, bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uf900-\ufaff\U00020000-\U0003ffff"  # Han, Yi
)
_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_HANGUL = "\uac00-\ud7a3\u1100-\u11ff\u3130-\u318f"

_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")  # compatibility normalisation would turn 10⁶ into 106
_FROM_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_VULGAR = re.compile("(\\d?)([¼-¾⅐-⅞↉])")  # and 1½ into 11/2
_GROUPING_SPACE = re.compile("(?<=\\d)[\u00a0\u2007\u2009\u202f](?=\\d{3}(?!\\d))")
_ROUND_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?: \d{3})* 000(?: \d{3})*(?!\d)")  # 10 000, but not 100 200 300
_OPTIONAL = re.compile(
    "[™®©℠\u00ad\u0640"  # marks of trade, soft hyphen, tatweel
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u0652\u0670"  # vowel points that most people leave out
    "\u200c-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0f\ufeff\u20e3]"  # joiners, directions, variants
)
_SAME = str.maketrans({"−": "-", "⁄": "/", "∕": "/", "♯": "#", "٫": ".", "٬": ",", "’": "'", "\u200b": " "})
_DASH_SIGN = re.compile(r"[–‒](?=\.?\d)")
_RANGE = re.compile(r"(?<=\d)\s*[-–—‒]\s*(?=\d)")  # 1990-1995: no sign
_MINUS = re.compile(r"(?<![\d.] )\b(?:minus|negative) (?=\.?\d)")

_CAPITAL = "[A-ZÀ-ÖØ-ÞΑ-ΩА-Я]"
_INITIALS = re.compile(  # the last stop may be missing, but not after a space: "the answer is B. A dog …"
    rf"(?<![\w.])(?:{_CAPITAL}\.(?: ?{_CAPITAL}\.)+|{_CAPITAL}(?:\.{_CAPITAL})+(?![\w.]))"
)

_NUMBER = r"""
    (?P<sign> (?<![\w)\]%°]) -[$€£¥₹]? (?=\.?\d) )?
    (?P<number>
        \d+[ ]\d+/\d+ (?![\d/])                     # 1 1/2
      | (?<![\d/]) \d{1,3}/\d+ (?![\d/])            # 1/2, but neither 1/2/1999 nor 2019/20
      | \d+ (?: :\d+ )+                             # 10:30
      | (?: \d+ (?: [.,']\d+ )* | (?<![\w.])\.\d+ )
        (?: e[+-]?\d+ (?!\w) )? (?: [ ]?[x×*·⋅][ ]?10\^-?\d+ )?
    )
    (?P<power> \^-?\w+ )?
"""
_GROUPED = re.compile(
    r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|[1-9]\d?(?:,\d\d)+,\d{3}(?:\.\d+)?|\d{1,3}(?:'\d{3})+(?:\.\d+)?"
)
_GROUPED_BY_DOTS = re.compile(r"[1-9]\d{0,2}(?:\.\d{3})+,\d+|[1-9]\d{0,2}(?:\.\d{3}){2,}")
_EITHER = re.compile(r"[1-9]\d{0,2}\.\d{3}")  # a thousand or three decimals: left as it is written


def words(text: str) -> list[str]:
    """Returns the words of `text`, case folded, numbers in one spelling; punctuation and symbols are left out."""
    text = _normalised(_INITIALS.sub(_joined, text))
    pattern = _pattern(text.isascii())
    return [_number(match) if match["number"] else match[0] for match in pattern.finditer(text)]


def symbols(text: str) -> list[str]:
    """Returns the visible symbols of a text without words: runs of operators, and single symbols.

    An emoji includes its skin tone and joined characters; a flag is one symbol.
    """
    text = unicodedata.normalize("NFC", text).replace("\ufe0e", "").replace("\ufe0f", "")
    return [match[0].casefold() for match in _SYMBOL.finditer(text) if _shows(match[0])]


_SYMBOL = re.compile(
    "[-+*/=<>&|^~%$#@\\\\!]+(?=[-+*/=<>&|^~%$#@\\\\]|(?<=[-+*/=<>&|^~%$#@\\\\!]))"
    "|[\U0001f1e6-\U0001f1ff]{2}"
    "|\\S(?:[\U0001f3fb-\U0001f3ff\u20e3\U000e0020-\U000e007f]|\u200d\\S)*"
)


def _shows(symbol: str) -> bool:
    return any(unicodedata.category(character)[0] not in "CZ" for character in symbol)


def hangul(word: str) -> bool:
    """Returns whether a word is written in hangul."""
    return "\uac00" <= word[:1] <= "\ud7a3"


def _joined(initials: re.Match[str]) -> str:
    return initials[0].replace(".", "").replace(" ", "") + " "


def _normalised(text: str) -> str:
    if not text.isascii():
        text = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_FROM_SUPERSCRIPT), text)
        text = _VULGAR.sub(lambda match: f"{match[1]} {match[2]}" if match[1] else match[2], text)
        text = _OPTIONAL.sub("", _GROUPING_SPACE.sub("", text))
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).translate(_SAME)
        text = "".join(map(_ascii_digit, text))
        text = _DASH_SIGN.sub("-", _RANGE.sub(" ", text))
    text = _ROUND_THOUSANDS.sub(lambda match: match[0].replace(" ", ""), text)
    return _MINUS.sub("-", _RANGE.sub(" ", text.casefold()))


def _ascii_digit(character: str) -> str:
    return str(unicodedata.decimal(character)) if character.isdecimal() else character


@cache
def _pattern(ascii_only: bool) -> re.Pattern[str]:
    """Returns the pattern of one word of normalised text; cached, because the non-ASCII one is slow to build."""
    marks = "" if ascii_only else _marks()
    own = "" if ascii_only else f"(?![{_UNSPACED}{_KATAKANA}{_HANGUL}])"
    letter = f"(?:{own}[^\\W\\d_]{f'|[{marks}]' if marks else ''})"
    scripts = f"[{_UNSPACED}][{marks}]* | [{_KATAKANA}{marks}]+ | [{_HANGUL}]+ |" if marks else ""
    return re.compile(
        rf"""
        \d+(?:st|nd|rd|th)(?!\w) | \d{{4}}s(?!\w) | \dd(?!\w)    # 21st, 1960s, 3d: no number with a unit
      | {_NUMBER}
      | {scripts}
        {letter}(?:{letter}|\d|_+(?=[^\W_]))* (?: (?<=\d)[.,]\d+ )*
        (?: \^-?\w+ )?
        (?: \+\+ | \+(?![\w+]) | [#] | (?<!\w\w\w)-(?=[\s.,;:!?)\]"'”»*]|$) )?
        """,
        re.VERBOSE,
    )


def _marks() -> str:
    """Returns the combining marks as the inside of a character class, because `re` does not count them as letters."""
    places = [place for place in range(0x300, sys.maxunicode) if unicodedata.category(chr(place))[0] == "M"]
    ranges: list[list[int]] = []
    for place in places:
        if ranges and place == ranges[-1][1] + 1:
            ranges[-1][1] = place
        else:
            ranges.append([place, place])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


def _number(match: re.Match[str]) -> str:
    sign = "-" if match["sign"] else ""
    number = match["number"]
    if "/" not in number and ":" not in number:
        number = re.sub(r"^[\d.,']+", lambda plain: _spelled(plain[0]), number)
        number = re.sub(r"[ ]?[x×*·⋅][ ]?10\^", "e", number).replace("e+", "e")
    return f"{sign}{number}{match['power'] or ''}"


def _spelled(number: str) -> str:
    """Returns a number without thousands separators, with a decimal point and without trailing zeros."""
    if _GROUPED.fullmatch(number):
        number = re.sub("[,']", "", number)
    elif _GROUPED_BY_DOTS.fullmatch(number):
        number = number.replace(".", "").replace(",", ".")
    elif number.count(",") == 1 and "." not in number:
        number = number.replace(",", ".")
    elif _EITHER.fullmatch(number):
        return number
    if number.count(".") == 1 and "," not in number and "'" not in number:
        whole, _, decimals = number.partition(".")
        decimals = decimals.rstrip("0")
        number = (whole or "0") + (f".{decimals}" if decimals else "")
    return number
