import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_docs_are_up_to_date():
    document = runpy.run_path(str(ROOT / "scripts" / "document"))
    text = document["generate"]()
    assert (ROOT / "docs" / "cli.md").read_text() == text, "run scripts/document"
    for option in ["`-o OUT`, `--output OUT`", "--shard K/N", "## dynse models"]:
        assert option in text


def test_every_option_has_help():
    document = runpy.run_path(str(ROOT / "scripts" / "document"))
    for command in document["app"].registered_commands:
        assert command.callback.__doc__
        for parameter in document["_parameters"](command.callback):
            assert parameter.info.help, (command.callback.__name__, parameter.name)
