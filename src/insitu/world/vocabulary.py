"""Every word and every named thing of the world: the grammar's alphabet, no drawing."""

from typing import Final

WORLD_VERSION: Final = 2
"""Raised by any change that alters a pixel or a caption; every checkpoint names the one it saw."""

RGB = tuple[int, int, int]

COLOURS: Final[dict[str, RGB]] = {
    "red": (214, 40, 44),
    "orange": (245, 134, 32),
    "yellow": (248, 214, 56),
    "green": (52, 158, 68),
    "cyan": (64, 208, 214),
    "blue": (40, 84, 204),
    "purple": (134, 56, 176),
    "pink": (246, 140, 184),
    "brown": (128, 80, 44),
    "white": (244, 244, 240),
    "gray": (140, 142, 148),
    "black": (40, 40, 46),
}
PATTERNS: Final = ("plain", "striped", "dotted", "checked", "zigzag", "two-tone")
MATERIALS: Final = ("matte", "glossy", "metallic", "wooden", "woolly")
ACCESSORIES: Final = ("hat", "scarf", "bow")

LIVING: Final = ("cat", "dog", "bird", "fish", "rabbit")
CATEGORIES: Final = (
    "mug", "teapot", "bottle", "lamp", "car", "boat", "house", "clock", "backpack",
    "guitar", "boot", "shirt", "umbrella", *LIVING,
)  # fmt: skip

BACKGROUNDS: Final[dict[str, str]] = {
    "wall": "in front of a {colour} wall",
    "rug": "on a {colour} rug",
    "table": "on a wooden table",
    "grass": "on the grass",
    "beach": "on the beach",
    "snow": "in the snow",
    "city": "in a city street",
    "forest": "in the forest",
    "fabric": "on a white fabric",
    "box": "on a wooden box",
}
"""Background kind -> its phrase in a caption; `wall` and `rug` carry a colour of their own."""

STYLES: Final[dict[str, str]] = {
    "photo": "{scene}",
    "line art": "a line art drawing of {scene}",
    "pastel": "a pastel painting of {scene}",
    "night": "{scene}, at night",
}
"""Style -> how a caption asks for it. Every style but `photo` repaints the whole picture."""

HAIR_COLOURS: Final[dict[str, RGB]] = {
    "black": (34, 28, 28),
    "brown": (96, 58, 34),
    "blond": (228, 190, 104),
    "red": (186, 78, 30),
    "gray": (168, 168, 172),
}
HAIR_LENGTHS: Final = ("no", "short", "long")

_GRAMMAR: Final = (
    "a an and the same but of in on at with to next left right behind wearing hair beard glasses "
    "photo picture drawing painting line art pastel night person people two three four face "
    "front smiling its their shape look like thing subject , . background clean"
)


def vocabulary() -> list[str]:
    """Every lower-case word that the grammar can say, sorted; punctuation included."""
    phrases = [
        _GRAMMAR, *COLOURS, *PATTERNS, *MATERIALS, *ACCESSORIES, *CATEGORIES, *BACKGROUNDS,
        *BACKGROUNDS.values(), *STYLES, *STYLES.values(), *HAIR_COLOURS, *HAIR_LENGTHS,
    ]  # fmt: skip
    words = " ".join(phrases).replace(",", " , ").split()
    return sorted({word.lower() for word in words if not word.startswith("{")})
