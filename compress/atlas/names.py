"""Makes names of fictional people, towns and companies from lists of name parts.

A pair of parts belongs either to the world (fixed people), to training text (passers-by who are read about once) or to
the test items; which one is decided by `split.bucket`, so that a test name never occurs in training text.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST: tuple[str, ...] = _words(
    """
    Alma Anton Ariel Bela Boris Bruno Carla Cedric Clara Cosmo Dalia Darius Delia Doran Edda Elias Elmo Enid
    Esme Ezra Fabian Felix Fiona Flora Gareth Gemma Gideon Greta Hanna Harold Hector Hilda Ida Igor Ingrid Ivo
    Jarek Jasper Joanna Julian Karim Katya Kira Klaus Lena Leopold Livia Lorenz Magda Marek Mira Morris Nadia
    Nestor Nina Nora Odette Olga Orson Oscar Paula Petra Piers Priya Quentin Rasmus Renata Rosa Rufus Sabine
    Selma Silas Sonia Tamar Theo Tilda Tobias Ulla Umberto Vera Viktor Wanda Wilma Xavier Yara Yusuf Zelda
    Zoltan
    """
)
LAST: tuple[str, ...] = _words(
    """
    Abbott Adler Ashdown Barlow Bexley Birch Bolton Brandt Calder Carver Castell Crane Dalton Davos Denholm
    Drake Eastman Ekberg Elwood Farrow Fenwick Fisk Forsyth Gallow Garrick Glover Grantham Hadley Hale Harker
    Holt Ibsen Ingram Irwin Jansen Jarvis Keller Kemble Kirby Lambert Larkin Lindqvist Lomax Marlow Mercer
    Moreau Norwood Novak Nyman Oakes Okafor Osborn Palmer Penrose Pike Prescott Quill Radley Ransome Rowan Rusk
    Sandoval Sayer Selwyn Stroud Tarrant Thorne Tindall Udall Unwin Varga Vickers Voss Wadham Walcott Weller
    Whitlock Yates Yorke Zeller
    """
)
TOWNS: tuple[str, ...] = _words(
    """
    Ashford Brindle Calloway Dunmore Eastwick Fairhaven Glenrock Harrowby Ironbridge Kestrel Larkspur Millbrook
    Northgate Oakhurst Pinecrest Quarryton Ravenshead Silverton Thornbury Underhill Violet Westmoor Yarrow
    Zephyr
    """
)
PROFESSIONS: tuple[str, ...] = _words(
    """
    architect baker botanist carpenter chemist composer dentist doctor engineer farmer fisherman gardener
    geologist historian journalist judge lawyer librarian mechanic miner nurse painter photographer pilot poet
    potter sailor sculptor surgeon tailor teacher translator watchmaker weaver
    """
)
INSTRUMENTS: tuple[str, ...] = _words(
    """
    accordion banjo bassoon cello clarinet drum fiddle flute guitar harp horn lute mandolin oboe organ piano
    piccolo saxophone trombone trumpet tuba viola violin zither
    """
)
PRODUCTS: tuple[str, ...] = _words(
    """
    apples baskets bells boats bread bricks butter candles carpets cheese cherries chocolate clocks glass gloves
    hats honey lace lamps lemons mirrors olives paper pears plums pottery ropes salt shoes silk soap tea tiles
    wine wool
    """
)
SIGHTS: tuple[str, ...] = _words(
    """
    abbey aqueduct bridge castle cathedral fountain garden harbour lighthouse mill monastery museum observatory
    palace theatre tower waterfall windmill
    """
)
PLACE_HEAD: tuple[str, ...] = _words(
    """
    Amber Ash Bel Black Bram Brook Cold Cran Dal Dun Elm Fal Fern Gold Grim Had Hart Hazel Holl Kel Lang Lin Mar
    Mill Nor Oak Pen Ras Red Rook Sal Sten Stone Tar Thorn Tor Wald West Whit Wind
    """
)
PLACE_TAIL: tuple[str, ...] = _words(
    """
    bay beck berg borough bridge bury by dale den field ford gate ham haven hill hurst ley mere mont mouth pool
    port shire side stead stow thorpe ton vale wick wood worth
    """
)
