"""The plain English of the generated tasks: names, places, things, and the sentences that hold them.

In a template ``{slot}`` stands for a name or a word: ``{A}``, ``{B}``, ``{C}`` are the characters of a story, ``{S}``
the one of ``{A}`` and ``{B}`` that a sentence on indirect objects repeats and ``{IO}`` the other. ``{A.he}``,
``{A.his}``, ``{A.him}`` and ``{A.He}`` are pronouns of ``{A}``.
"""

from __future__ import annotations


def _each(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GIRLS = _each(
    "Mary Emily Amy Anna Clara Ella Eva Grace Hannah Holly Jane Julia Kate Laura Leah Lily Lucy Maria Molly Nora "
    "Olivia Paula Rose Ruth Sally Sara Sophie Tina Vera Zoe Alice Betty Cathy Dora Fiona Gina Helen Irene Judy Karen"
)
BOYS = _each(
    "John Tom James Dan Sam Adam Alex Ben Bill Bob Carl Chris David Eric Frank Fred George Harry Henry Jack Joe Josh "
    "Kevin Leo Luke Mark Max Mike Nick Noah Oscar Paul Peter Ray Rob Simon Steve Tim Victor Will"
)
PAPER_NAMES = ("John", "Mary", "Tom", "James", "Dan", "Emily", "Sam", "Amy")
HELD_OUT_NAMES = GIRLS[-10:] + BOYS[-10:]
"""Characters of stories like the others, who never stand in a sentence on indirect objects in training."""
NAMES = tuple(name for name in GIRLS + BOYS if name not in HELD_OUT_NAMES)

PLACES = _each(
    "park store school garden beach forest farm library market river hill playground zoo lake kitchen barn field "
    "village museum station bakery castle harbour hospital shops"
)
OBJECTS = (
    *("the ball", "the book", "the kite", "the doll", "the hat", "the cup", "the key", "the map", "the box", "the bag"),
    *("a drink", "a flower", "a cookie", "a toy", "a letter", "a shell", "a coin", "a drum", "a ring", "a basket"),
    *("an apple", "an orange", "an umbrella", "a bottle of milk", "a piece of cake", "a cup of tea"),
)
"""With their articles; some are several words."""

SLOTS: dict[str, tuple[str, ...]] = {
    "place": PLACES,
    "object": OBJECTS,
    "thing": _each("ball book kite doll hat cup key map box bag toy drum ring basket boat bike blanket lamp"),
    "animal": _each("dog cat bird rabbit horse duck frog fox squirrel puppy kitten cow pig sheep mouse turtle"),
    "feeling": _each("happy sad tired hungry excited scared proud sleepy bored brave shy angry"),
    "adjective": _each(
        "big small red blue green old new soft shiny little tall round yellow brown pretty funny heavy broken"
    ),
    "weather": _each("sunny rainy windy cold warm snowy cloudy hot"),
    "food": _each("bread soup cheese cake rice honey jam fruit pizza salad"),
    "plant": _each("tree bush flower rock bench fence bridge wall gate hedge"),
    "time": _each("morning afternoon evening day night weekend"),
    "ran": _each("ran walked jumped hurried danced skipped climbed raced"),
    "played": _each("played sang laughed talked rested worked danced waited"),
    "saw": _each("saw found heard met followed helped fed chased"),
}
"""What a story draws anew for every sentence."""

OPENINGS = (
    "One {weather} {time}, {A} and {B} went to the {P}.",
    "Once there was a child called {A} who had a friend called {B}.",
    "It was a {weather} {time}, and {A} was {feeling}.",
    "{A} lived near the {P} with a {adjective} {animal}.",
    "{A} and {B} were good friends.",
    "One {time} {A} woke up and felt {feeling}.",
    "Every {time} {A} walked to the {P} with {B}.",
    "A {adjective} {animal} lived in the {P}, and only {A} knew it.",
    "{A} wanted to go to the {P}, but it was too {weather}.",
    "There was once a {feeling} {animal} that belonged to {A}.",
)
MIDDLES = (
    "{A.He} {saw} a {adjective} {animal} by the {plant}.",
    "{A} {ran} to the {plant} and {played} there.",
    "Then {B} came and {played} too.",
    "{B} was {feeling}, but {A} was not.",
    "{A} said, we can look for the {thing} together.",
    "{B} asked, where is my {adjective} {thing}?",
    "The {animal} {ran} away from {B}.",
    "{A} and {C} {played} in the {P} all {time}.",
    "{C} was in the {P} with {C.his} {thing}.",
    "{A} put {A.his} {thing} under the {plant}.",
    "{B} liked the {adjective} {thing} very much.",
    "They ate {food} and {food} in the {P}.",
    "{A.His} {animal} was {feeling} and {adjective}.",
    "{A} told {B} a story about a {feeling} {animal}.",
    "It was {weather}, so they stayed near the {plant}.",
    "{B} helped {A} to carry the {adjective} {thing}.",
    "{C} {saw} {A} and smiled at {A.him}.",
    "{A} could not find {A.his} {thing}, so {A.he} asked {C}.",
    "The {thing} was {adjective}, and {B} wanted to keep it.",
    "{B} and {C} {ran} around the {plant}.",
    "Suddenly a {animal} {ran} out of the {plant}.",
    "{A} thought that {B} had the {thing}.",
    "{B} thought that {C} was {feeling}.",
    "They made some {food} for the {animal}.",
)
GIVING = (
    "{B} gave {object} to {A}.",
    "{A} had {object} and gave it to {B}.",
    "{C} showed {object} to {A} and {B}.",
    "{A} got {object} from {C}.",
    "{B} took {object} from {A} and thanked {A.him}.",
)
"""Things change hands here too, but no name is repeated whose place another name must take."""
ENDINGS = (
    "In the end {A} and {B} went home.",
    "{A} was {feeling} and went to bed.",
    "They were all {feeling} that {time}.",
    "{B} thanked {A}, and they went back to the {P}.",
    "After that {A} never forgot the {animal}.",
    "Then it was {time}, and {B} said good night.",
    "{A} smiled, and the {animal} {ran} home.",
)

TEMPLATES = (
    "When {A} and {B} went to the {place}, {S} gave {object} to {IO}.",
    "When {A} and {B} got to the {place}, {S} handed {object} to {IO}.",
    "While {A} and {B} were at the {place}, {S} passed {object} to {IO}.",
    "Then {A} and {B} had a long talk, and {S} gave {object} to {IO}.",
    "After {A} and {B} came back from the {place}, {S} brought {object} to {IO}.",
    "{A} and {B} were in the {place}, and {S} showed {object} to {IO}.",
    "Today {A} and {B} played at the {place}, and {S} threw {object} to {IO}.",
    "When {A} and {B} met near the {place}, {S} offered {object} to {IO}.",
    "One day {A} and {B} walked to the {place}, and there {S} gave {object} to {IO}.",
    "Because {A} and {B} were friends, {S} lent {object} to {IO}.",
    "After {A} and {B} had some food, {S} passed {object} to {IO}.",
    "Then {A} met {B} at the {place}, and {S} handed {object} to {IO}.",
)
"""Sentences on indirect objects, after Wang et al., arXiv 2211.00593, in the words of the stories."""
HELD_OUT_TEMPLATES = (
    "After {A} and {B} went to the {place}, {S} gave {object} to {IO}.",
    "While {A} and {B} walked around the {place}, {S} offered {object} to {IO}.",
    "Every day {A} and {B} talked in the {place}, and {S} brought {object} to {IO}.",
    "{A} saw {B} near the {place}, so {S} gave {object} to {IO}.",
)
"""Never in training."""
PAPER_PROMPTS = (
    ("After {A} and {B} went to the store, {S} gave a bottle of milk to {IO}.", "John", "Mary"),
    ("When {A} and {B} went to the park, {S} gave the ball to {IO}.", "Tom", "James"),
    ("When {A} and {B} went to the shops, {S} gave an apple to {IO}.", "Dan", "Emily"),
    ("After {A} and {B} went to the park, {S} gave a drink to {IO}.", "Sam", "Amy"),
)
"""The four prompts of arXiv 2412.15113, each asked with either name as {S}."""

PRONOUNS = {
    "he": ("she", "he"),
    "his": ("her", "his"),
    "him": ("her", "him"),
    "He": ("She", "He"),
    "His": ("Her", "His"),
}
"""For girls and for boys."""
