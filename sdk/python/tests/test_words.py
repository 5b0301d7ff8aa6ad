"""What is said to an author: mistakes in declarations, in configurations, in what a plugin does with a record."""

import subprocess
import sys
import tempfile
import textwrap
import unittest
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Annotated, Any, Literal

from pelton_sdk import ConfigError, Failure, Json, Record, Step, Transform, columns, fields, log, read_json, testing
from pelton_sdk._batch import extract, packed
from pelton_sdk._yaml import load
from pelton_sdk.transform import Plugin

SDK = str(File(__file__).parents[1])


def checked(**files: str) -> str:
    """What `checking` says of a plugin."""
    with tempfile.TemporaryDirectory() as plugin:
        for name, text in files.items():
            (File(plugin) / f"{name}.py").write_text(textwrap.dedent(text).lstrip())
        report = File(plugin) / "report.json"
        code = "import sys; sys.path[:0] = sys.argv[3:]; from pelton_sdk import checking; checking.main(*sys.argv[1:3])"
        arguments = [plugin, str(report), plugin, SDK]
        subprocess.run([sys.executable, "-I", "-S", "-B", "-c", code, *arguments], check=True, cwd=plugin)
        found = read_json(report.read_text(), dict[str, Any])
        return found.get("problem") or ", ".join(found["capabilities"]) or "nothing"


HEAD = "from typing import Annotated\nfrom pelton_sdk import *\n"


class Checking(unittest.TestCase):
    def test_what_is_imported_is_asked_for(self) -> None:
        plugin = "from pelton_sdk import clock, export, log, Step\ndef f() -> Step: ...\nexport(f)\n"
        self.assertEqual(checked(plugin=plugin), "log, clock")
        self.assertEqual(checked(plugin=HEAD + "def f() -> Step: ...\nexport(f)\n"), "nothing")

    def test_mistakes_in_the_language_are_told_with_file_and_line(self) -> None:
        self.assertIn("plugin.py:2:7: SyntaxError", checked(plugin="x = 1\ndef f(:\n"))
        self.assertIn("part.py:1:5: SyntaxError", checked(plugin="import part\n", part="x = = 1\n"))
        raised = checked(plugin="import part\npart.f()\n", part="def f():\n    raise ValueError('oops')\n")
        self.assertTrue(raised.startswith("part.py:2: ValueError: oops\n"), raised)
        self.assertIn('File "plugin.py", line 2', raised)
        missing = checked(plugin="import os\nimport numpy\n")
        self.assertTrue(missing.startswith("plugin.py:2: ModuleNotFoundError: No module named 'numpy'"), missing)
        self.assertIn("pip install --target vendor numpy", missing)
        self.assertIn("plugin.py: it exports nothing", checked(plugin="x = 1\n"))

    def test_every_mistake_in_a_declaration_is_told_at_its_line(self) -> None:
        told = checked(
            plugin=HEAD
            + """
            @fields
            class Event:
                good: str
                tags: list[str]
                coupon: str = "x"
                both: Annotated[str, Symbol, Json]
                lenient: Annotated[int, NullOnMismatch]
                key: Annotated[int, Key]
                size: Annotated[int, Symbol]
                what: Annotated[int, 7]
            """.replace("\n            ", "\n")
        )
        for line, words in [
            (7, "tags: a plugin cannot read a field as list[str]"),
            (8, "coupon: what is read has no default"),
            (9, "both: a field is either Symbol or Json"),
            (10, "lenient: NullOnMismatch needs a place for the null: write `int | None`"),
            (11, "key: Key is read as bytes or str, not int"),
            (12, "size: Symbol goes with text"),
            (13, "what: 7 says nothing about a field"),
        ]:
            self.assertIn(f"plugin.py:{line}: Event.{words}", told)
        self.assertNotIn("good", told)

    def test_mistakes_in_columns_and_exports_are_told(self) -> None:
        within = HEAD + "@columns\nclass Row:\n    a: int\n    b: Annotated[int, Path('a.b')]\n"
        self.assertIn("plugin.py:6: Row.b: `a` and `a.b` lie within each other", checked(plugin=within))
        bare = HEAD + "class Event:\n    a: int\ndef f(event: Event) -> Step: ...\nexport(f)\n"
        self.assertIn("plugin.py:5: the type hint of `event` is a class with @fields", checked(plugin=bare))
        row = HEAD + "class Row:\n    a: int\ndef f() -> Step[Row]: ...\nexport(f)\n"
        self.assertIn("plugin.py:3: write @columns above class Row", checked(plugin=row))
        answer = HEAD + "def f() -> int: ...\nexport(f)\n"
        self.assertIn("plugin.py:3: `apply` answers with a Step", checked(plugin=answer))
        self.assertIn("plugin.py:3: export wants a function", checked(plugin=HEAD + "export(7)\n"))
        self.assertIn('Header("trace-id")', checked(plugin=HEAD + "@fields\nclass E:\n    a: Annotated[str, Header]\n"))


@dataclass
class Level:
    above: float


@dataclass
class Config:
    vat: float
    mode: Literal["fast", "safe"] = "safe"
    levels: list[Level] = field(default_factory=list)
    limits: dict[str, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.vat < 0:
            raise ValueError("vat: must not be negative")


class Configured(Transform):
    def __init__(self, config: Config) -> None:
        if config.vat == 13:
            raise ConfigError.key("vat", "13 is unlucky")
        self.rate = 1 / config.vat

    def apply(self) -> Step:
        return Step.keep()


class Configuration(unittest.TestCase):
    def refused(self, config: Any) -> str:
        with self.assertRaises(ConfigError) as refused:
            testing.Driver(Configured, config)
        return str(refused.exception)

    def test_all_that_does_not_fit_is_named_with_its_key(self) -> None:
        self.assertEqual(self.refused(None), "vat: is missing")
        self.assertEqual(
            self.refused({"vat": "x", "mode": "slow", "levels": [{"above": 1}, {"over": 2}], "limits": {"a": 1.5}}),
            'vat: a number is wanted, "x" was found; mode: one of "fast", "safe" is wanted, "slow" was found; '
            "levels[1].over: there is no such key; the keys are above; levels[1].above: is missing; "
            "limits.a: a whole number is wanted, 1.5 was found",
        )
        self.assertEqual(self.refused({"vat": -1}), "vat: must not be negative")
        self.assertEqual(self.refused({"vat": 13}), "vat: 13 is unlucky")
        testing.Driver(Configured, {"vat": 19, "limits": {"a": None}})

    def test_an_exception_at_the_start_is_told_with_its_line(self) -> None:
        refused = self.refused({"vat": 0})
        self.assertIn("test_words.py:", refused)
        self.assertIn("ZeroDivisionError", refused)

    def test_a_plugin_without_configuration_takes_none(self) -> None:
        with self.assertRaisesRegex(ConfigError, "nothing to configure"):
            testing.Driver(lambda_like, {"a": 1})


def lambda_like() -> Step:
    return Step.keep()


@fields
class Number:
    n: Annotated[Any, Json]


@columns
class Row:
    n: int


def careless(number: Number) -> Step[Row]:
    log.info("here")
    match number.n:
        case "raise":
            return Step.set(Row(n=int("x")))
        case "fail":
            raise Failure.skip("old", "raised")
        case "none":
            return None  # type: ignore[return-value]
        case "misfit":
            return Step.set(Row(n="1")) & Step.keep()  # type: ignore[arg-type]
        case "elsewhere":
            return Step.keep().to("nowhere")
        case "code":
            return Step.reject("Not A Code", "")
    return Step.set(Row(n=number.n))


class Records(unittest.TestCase):
    def processed(self, *numbers: Any) -> dict[int, tuple[str, str]]:
        """Failures as a component answers them."""
        plugin = Plugin(careless)
        placed: list[Any] = []
        for n in numbers:
            testing.TestRecord({"n": n})._place(placed)
        placed, cells, _ = extract(plugin.subscriber, placed)
        testing.Driver(careless)  # answers the capabilities
        output = plugin.start("null").process(packed(plugin.subscriber, placed, cells))
        return {row: (failure.code, failure.message) for row, failure in output.failures}

    def test_an_exception_is_its_record_s_failure_with_the_way_there(self) -> None:
        failures = self.processed(1, "raise", 2)
        self.assertEqual(failures.keys(), {1})
        code, message = failures[1]
        line = careless.__code__.co_firstlineno + 4
        first, *rest = message.split("\n")
        self.assertEqual(code, "exception")
        self.assertEqual(first, f"{__file__}:{line}: ValueError: invalid literal for int() with base 10: 'x'")
        self.assertIn(
            f'  File "{__file__}", line {line}, in careless\n    return Step.set(Row(n=int("x")))', "\n".join(rest)
        )

    def test_what_is_not_as_declared_is_the_record_s_failure(self) -> None:
        failures = self.processed("fail", "none", "misfit", 3, "code")
        self.assertEqual(failures[0], ("old", "raised"))
        self.assertIn("is a `return` missing?", failures[1][1])
        self.assertEqual(failures[2], ("wrong_type", "Row.n: int is wanted, '1' was given"))
        self.assertNotIn(3, failures)
        self.assertIn("a failure's code is of lower-case letters", failures[4][1])

    def test_in_a_native_test_an_exception_comes_out_as_it_is(self) -> None:
        with self.assertRaisesRegex(ValueError, "invalid literal"):
            testing.run(careless, None, [{"n": "raise"}])
        with self.assertRaisesRegex(AssertionError, r'export\(careless, outputs=\("nowhere", \)\)'):
            testing.run(careless, None, [{"n": "elsewhere"}])

    def test_a_whole_record_can_be_read_and_held_against_a_type(self) -> None:
        @dataclass
        class Item:
            n: int

        def whole(record: Record) -> Step:
            return Step.keep() if record.json(Item).n else Step.drop()

        run = testing.run(whole, None, ['{"n": 1}', '{"n": "x"}', "{", b"\xff", None])
        self.assertEqual(run.values(), [{"n": 1}])
        codes = ["wrong_type", "malformed_json", "wrong_type", "missing_field"]
        self.assertEqual(run.failures(), list(enumerate(codes, 1)))


class Yaml(unittest.TestCase):
    def test_what_configurations_use_is_read(self) -> None:
        text = """
        # a comment
        vat: 19      # behind a value
        name: "a # b: c"
        rates: { EUR: 1, 'US D': 0.9, deep: [1, [x y, null]] }
        nested:
          on: true
          list:
            - 1
            - { b: 2 }
          empty: []
        """
        self.assertEqual(
            load(textwrap.dedent(text), "c.yaml"),
            {
                "vat": 19,
                "name": "a # b: c",
                "rates": {"EUR": 1, "US D": 0.9, "deep": [1, ["x y", None]]},
                "nested": {"on": True, "list": [1, {"b": 2}], "empty": []},
            },
        )

    def test_what_is_not_understood_is_refused_by_its_line(self) -> None:
        for text in ["a: 1\nb: |\n  text", "a: [1,\n  2]", "a: 1\n b: 2", "a: {x}", "a: &x 1", "a:\n - b: 1"]:
            with self.subTest(text), self.assertRaisesRegex(ValueError, r"c\.yaml:[12]: .*pip install pyyaml"):
                load(text, "c.yaml")
