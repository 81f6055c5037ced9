"""What a model is asked beside the tasks: texts to agree on, questions with an expected answer, and asks for JSON.

The sets below are fixed, and named by their digest. A data folder may bring its own: `prompts.jsonl`, each line with a
field `text`; `golden.jsonl`, each line with a `question` and either `expected`, a regular expression that is searched in
the answer whatever its case, or `keys`, the keys of the JSON object that is asked for.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from registry.digests import digest_bytes
from registry.errors import BadInput
from registry.release import Digest

_RUN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One golden prompt: it has a pattern or keys, never both."""

    question: str
    expected: str = ""
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses what nothing, or anything, would answer."""
        if not self.question.strip() or bool(self.expected) is bool(self.keys):
            message = "needs a question, and either `expected` or `keys`"
            raise ValueError(message)
        re.compile(self.expected)

    @property
    def is_format(self) -> bool:
        """Whether JSON is asked for."""
        return bool(self.keys)

    def is_answered_by(self, answer: str) -> bool:
        """Whether `answer` is as expected."""
        if self.is_format:
            found = _first_json(answer)
            return isinstance(found, dict) and set(self.keys) <= found.keys()
        return re.search(self.expected, answer, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """All that is asked."""

    texts: tuple[str, ...]
    golden: tuple[Question, ...]

    @property
    def digest(self) -> Digest:
        """Names the set: equal prompts, and only they, have an equal digest."""
        document = {"texts": self.texts, "golden": [asdict(one) for one in self.golden]}
        return digest_bytes(json.dumps(document, sort_keys=True).encode())


def read_prompts(folder: Path) -> Prompts:
    """What the data folder brings, and the sets below for what it does not.

    Raises:
        BadInput: a file of its own holds nothing, or a line that cannot be used.
    """
    texts, golden = folder / "prompts.jsonl", folder / "golden.jsonl"
    return Prompts(
        texts=tuple(_read_text(row) for row in _rows(texts)) if texts.exists() else TEXTS,
        golden=tuple(_read(row, golden) for row in _rows(golden)) if golden.exists() else GOLDEN,
    )


def repeated_share(words: list[Any]) -> float:
    """The share of runs of three words (or tokens) that came up before in the same answer; 0 where there are none."""
    runs = [tuple(words[at : at + _RUN]) for at in range(len(words) - _RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _first_json(answer: str) -> Any:
    """The first JSON value in `answer`, with or without a fence or words around it; None where there is none."""
    decoder = json.JSONDecoder()
    for at, character in enumerate(answer):
        if character in "{[":
            try:
                return decoder.raw_decode(answer, at)[0]
            except (ValueError, RecursionError):
                return None
    return None


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        rows = [json.loads(line) for line in lines]
    except (OSError, ValueError, RecursionError) as error:
        message = f"{path} is no JSON Lines file ({error}). Each line is a JSON object."
        raise BadInput(message) from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        message = f"{path} holds {len(rows)} lines, and needs at least one, each a JSON object."
        raise BadInput(message)
    yield from cast("list[dict[str, Any]]", rows)


def _read_text(row: dict[str, Any]) -> str:
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        message = f"prompts.jsonl: a line has no field `text` that says anything ({str(row)[:80]})."
        raise BadInput(message)
    return text


def _read(row: dict[str, Any], path: Path) -> Question:
    try:
        keys = tuple(str(key) for key in row.get("keys", ()))
        return Question(
            question=str(row["question"]), expected=str(row.get("expected", "")), keys=keys
        )
    except (KeyError, TypeError, ValueError, re.error) as error:
        message = (
            f"{path}: a line cannot be used ({type(error).__name__}: {error}): {str(row)[:80]}"
        )
        raise BadInput(message) from error


def _asks(*facts: tuple[str, str]) -> tuple[Question, ...]:
    return tuple(Question(question=question, expected=expected) for question, expected in facts)


def _json(*asks: tuple[str, str]) -> tuple[Question, ...]:
    return tuple(
        Question(
            question=f"Answer in JSON, like this: {example} Now the same for {about}.",
            keys=tuple(json.loads(example)),
        )
        for about, example in asks
    )


GOLDEN = _asks(
    ("What is the capital of France?", r"\bparis\b"),
    ("What is the capital of Italy?", r"\brome\b"),
    ("What is the capital of Japan?", r"\btokyo\b"),
    ("What is the capital of Egypt?", r"\bcairo\b"),
    ("What is the capital of Germany?", r"\bberlin\b"),
    ("What is the capital of Spain?", r"\bmadrid\b"),
    ("Which planet is closest to the sun?", r"\bmercury\b"),
    ("Which is the largest planet of the solar system?", r"\bjupiter\b"),
    ("What is the chemical symbol of gold?", r"\bau\b"),
    ("What is the chemical formula of water?", r"h2o|h₂o"),
    ("What is 2 plus 2?", r"\b(4|four)\b"),
    ("What is 10 minus 3?", r"\b(7|seven)\b"),
    ("How many days are there in a week?", r"\b(7|seven)\b"),
    ("How many months are there in a year?", r"\b(12|twelve)\b"),
    ("How many minutes are there in an hour?", r"\b(60|sixty)\b"),
    ("Which season comes after winter?", r"\bspring\b"),
    ("Which day comes after Monday?", r"\btuesday\b"),
    ("Which colour do you get when you mix blue and yellow?", r"\bgreen\b"),
    ("What is the opposite of hot?", r"\bcold\b"),
    ("What is the plural of mouse, the animal?", r"\bmice\b"),
    ("Who wrote Romeo and Juliet?", r"\bshakespeare\b"),
    ("Which ocean lies between Europe and America?", r"\batlantic\b"),
    ("On which continent is Kenya?", r"\bafrica\b"),
    ("Which gas do plants take from the air?", r"carbon dioxide|\bco2\b"),
) + _json(
    ("the city Paris", '{"city": "Rome", "country": "Italy"}'),
    ("the city Tokyo", '{"city": "Cairo", "country": "Egypt"}'),
    ("a cat called Tom of four years", '{"name": "Rex", "age": 7}'),
    ("Hamlet by Shakespeare", '{"title": "Emma", "author": "Austen"}'),
    ("a yellow banana", '{"fruit": "apple", "colour": "red"}'),
    ("the number seven", '{"number": 4, "is_even": true}'),
    ("the month of May", '{"month": "June", "days": 30}'),
    ("a car with four wheels", '{"kind": "bicycle", "wheels": 2}'),
    ("two books for ten dollars", '{"count": 3, "price": 15}'),
    ("Ann, who is an admin", '{"user": "Bob", "role": "editor"}'),
    ("the word house", '{"word": "tree", "letters": 4}'),
    ("a spider with eight legs", '{"animal": "dog", "legs": 4}'),
)
"""Facts that a model of a hundred million weights knows for the most part, and asks whose answer a program would read."""

TEXTS = (
    (
        "Question: Why is the sky blue? Answer: Sunlight is scattered by the molecules of the air, and short waves are "
        "scattered more than long ones, so that blue light reaches the eye from all directions."
    ),
    (
        "The old lighthouse had not been lit for thirty years when the new keeper came up the path with a lamp in one hand "
        "and a letter from the harbour office in the other."
    ),
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return total / len(values)\n",
    (
        "To make a simple bread, mix flour, water, salt and yeast, knead the dough for ten minutes, let it rise until it has "
        "doubled, shape it into a loaf and bake it in a hot oven until the crust is brown."
    ),
    (
        "Dear Sir or Madam, I am writing to ask about the order that I placed on the third of March. It has not arrived yet, "
        "and nobody has answered my last two messages. Please let me know when I can expect it."
    ),
    (
        "Photosynthesis is the process by which green plants turn light, water and carbon dioxide into sugar and oxygen. It "
        "takes place in the chloroplasts, which hold the pigment chlorophyll."
    ),
    (
        "SELECT name, COUNT(*) AS orders FROM customers JOIN orders ON orders.customer_id = customers.id GROUP BY name "
        "HAVING COUNT(*) > 10 ORDER BY orders DESC;"
    ),
    (
        "The committee met on Tuesday to discuss the budget for the coming year. After two hours of debate it was agreed that "
        "the library would stay open on Sundays, and that the swimming pool would be closed for repairs."
    ),
    (
        "Question: How do I reset my password? Answer: Open the settings, choose the tab called security, and press reset. You "
        "will get a message with a link that is good for one hour."
    ),
    (
        "In 1969 two astronauts walked on the surface of the moon while a third circled above them. They collected rocks, set "
        "up instruments and planted a flag before they returned to the earth."
    ),
    (
        "If a train leaves at noon and travels at sixty miles an hour, it will have covered one hundred and eighty miles by "
        "three o'clock, and will reach the coast half an hour later."
    ),
    (
        "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        self.items.append(item)\n\n"
        "    def pop(self):\n        return self.items.pop()\n"
    ),
    (
        "The heart pumps blood through the body. Blood that is rich in oxygen leaves the left side of the heart through the "
        "aorta, and blood that is poor in oxygen comes back to the right side."
    ),
    (
        "She looked at the clock again. It was almost midnight, and there was still no sign of him. The rain had stopped, and "
        "the only sound in the street was water running in the gutter."
    ),
    (
        "Translate to French: Good morning, how are you? Answer: Bonjour, comment allez-vous? Translate to French: Thank you "
        "very much. Answer: Merci beaucoup."
    ),
    (
        "A good habit is to write a test before you fix a bug. The test fails at first, which shows that you have understood "
        "the bug, and passes in the end, which shows that you have fixed it."
    ),
    (
        '{"name": "Ann", "age": 31, "address": {"street": "12 Hill Road", "city": "Leeds"}, "tags": ["admin", "editor"], '
        '"active": true}'
    ),
    (
        "The price of oil fell by three percent on Friday after the largest producers said that they would raise their output. "
        "Analysts expect that it will stay low until the end of the summer."
    ),
    (
        "Water boils at one hundred degrees Celsius at sea level. On a high mountain the pressure of the air is lower, and so "
        "water boils at a lower temperature there."
    ),
    (
        "Once upon a time there was a small fox who lived at the edge of the forest. Every evening he went down to the river to "
        "drink, and every evening he saw the same old turtle sitting on a stone."
    ),
    (
        "Question: What is the difference between a list and a tuple in Python? Answer: A list can be changed after it was "
        "made, and a tuple cannot. Both keep their items in order."
    ),
    (
        "The Roman Empire reached its greatest extent under Trajan, when it stretched from Britain to Mesopotamia. In the "
        "centuries that followed it was divided, and its western half fell."
    ),
    (
        "To install the program, download the archive, unpack it into a folder of your choice and run the file called setup. "
        "When you are asked for a licence key, enter the one that came with your invoice."
    ),
    (
        "for i in range(1, 101):\n    if i % 15 == 0:\n        print('FizzBuzz')\n    elif i % 3 == 0:\n        print('Fizz')\n"
        "    elif i % 5 == 0:\n        print('Buzz')\n    else:\n        print(i)\n"
    ),
    (
        "Regular exercise lowers the risk of heart disease, helps you to sleep and lifts your mood. Half an hour of brisk "
        "walking on most days of the week is enough to make a difference."
    ),
    (
        "The meeting is on Thursday at ten in the large room on the second floor. Please bring the figures for the last "
        "quarter, and tell Martin if you cannot come."
    ),
    (
        "Let x be a real number such that x squared equals two. Then x is not a ratio of two whole numbers, for if it were, "
        "both of them would be even, however often they are halved."
    ),
    (
        "The violin has four strings, which are tuned in fifths. It is played with a bow, or plucked with the fingers, and it "
        "is the smallest and highest instrument of its family."
    ),
    (
        "User: My screen stays black when I start the computer. Assistant: I am sorry to hear that. Does the light on the "
        "front come on, and do you hear the fan? User: The light is on, but I hear nothing."
    ),
    (
        "Bees are important because they carry pollen from flower to flower. Without them many plants would bear no fruit, and "
        "we would have fewer apples, almonds and berries."
    ),
    (
        "The contract begins on the first of January and ends after twelve months. Either party may end it earlier by giving "
        "notice in writing at least thirty days in advance."
    ),
    (
        "git checkout -b fix-login\ngit add login.py tests/test_login.py\ngit commit -m 'Refuse an empty password'\n"
        "git push origin fix-login\n"
    ),
)
"""Prose, talk, code and data, written for this: none of it is in the demo's texts for calibration or perplexity."""
