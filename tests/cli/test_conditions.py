from types import SimpleNamespace

import pytest
import typer

from dynse.cli.choices import check_fields
from dynse.cli.conditions import NUMBERS, WORDS, Condition, ConditionError
from dynse.cli.report import CSV_COLUMNS
from dynse.probes.probe_file import Probe

ROW = {
    **dict.fromkeys((*NUMBERS, *WORDS)),
    "snr_input_db": 3.2,
    "duration_s": 4.0,
    "channels": 2,
    "noise": "street",
    "custom.rate": 0.5,
    "custom.a colour": "dark",
    "custom.room": None,
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("snr_db<15", True),
        ("snr_input_db >= 3.2", True),
        ("snr_db<-1e1", False),
        ("channels==2.0", True),
        ("channels != 2", False),
        ("noise==street", True),
        ("noise != 'street'", False),
        ('noise == "a room"', False),
        ("snr_db<3 or noise==street", True),
        ("snr_db<3 and noise==street or duration_s>3", True),
        ("snr_db<3 and (noise==street or duration_s>3)", False),
        ("not snr_db<3 and not not duration_s>3", True),
        ("not (snr_db>3 or duration_s>9)", False),
        # null is unknown, unless something else decides.
        ("pesq>2", None),
        ("not pesq>2", None),
        ("gender!=male", None),
        ("pesq>2 or snr_db<5", True),
        ("pesq>2 and snr_db<5", None),
        ("pesq>2 and snr_db>5", False),
        ("pesq>2 or snr_db>5", None),
        ("gender==null", True),
        ("noise==null", False),
        ("snr_db!=null and pesq==null", True),
        # Columns of one's own.
        ("custom.rate<1 and 'custom.a colour'==dark", True),
        ("not (custom.rate>=0.5)", False),
        ('"custom.a colour" != dark', False),
        ("custom.room==null and custom.rate!=null", True),
        ("custom.room=='3'", None),
    ],
)
def test_what_holds(text, holds):
    assert Condition(text).holds(ROW) is holds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a field is missing"),
        ("snr_db", "an operator is missing"),
        ("snr_db>", "a value is missing"),
        ("snr_db=5", "'=5' is not understood"),
        ("loudness>5", "no field 'loudness'; known are snr_db, si_sdr_db"),
        ("snr_db>quiet", "is a number, 'quiet' is not"),
        ("snr_db>5dB", "'5dB' is not"),
        ("snr_db>nan", "'nan' is not"),
        ("snr_db>null", "'null' is not"),
        ("noise>street", "only == and !="),
        ("noise==3", "'3' is not"),
        ("snr_db>1 snr_db<9", "'and' or 'or' was expected before 'snr_db'"),
        ("(snr_db>1", "a ) is missing"),
        ("snr_db>1)", "expected before ')'"),
        ("'not' snr_db>1", "no field 'not'"),
        ("custom>3", "no field 'custom'; known are"),
        ("custom.>3", "'.>3' is not understood"),
        ("custom.colour<dark", "only == and !="),
        ("(" * 5000, "too many brackets"),
        ("__import__('os').system('true')", "is not understood"),
    ],
)
def test_what_is_not_understood_is_told(text, why):
    with pytest.raises(ConditionError) as caught:
        Condition(text)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_are_told_by_short_names():
    condition = Condition("pesq>2 and snr_input_db>5 and snr_db<9")
    assert condition.values(ROW) == "pesq is null, snr_db is 3.2"


def test_every_field_is_a_column():
    assert {*NUMBERS, *WORDS} < set(CSV_COLUMNS)


def test_a_word_that_the_probes_never_say_is_wrong_usage():
    probes = SimpleNamespace(
        probes=[
            Probe("category", "class", ("music", "office", "street"), unnamed=("music",)),
            Probe("gender", "class", ("female", "male")),
            Probe("snr_input_db", "value"),
        ]
    )
    fine = [Condition("noise==street or not gender!='male' or noise==null")]
    check_fields("--only-if", fine, probes)
    with pytest.raises(typer.BadParameter, match=r"'bable' is no noise .* office, street"):
        check_fields("--only-if", [*fine, Condition("snr_db<3 or noise==bable")], probes)
    with pytest.raises(typer.BadParameter, match=r"'music' is no noise .* office, street"):
        check_fields("--only-if", [Condition("noise==music")], probes)


@pytest.mark.parametrize("text", ["noise==street", "snr_db<3", "not speech_ratio>0", "f0_hz>9"])
def test_what_the_probes_do_not_tell_is_wrong_usage(text):
    probes = SimpleNamespace(probes=[Probe("rate", "value")])
    with pytest.raises(typer.BadParameter, match="the probes given do not tell"):
        check_fields("--only-if", [Condition(text)], probes)
    check_fields("--only-if", [Condition("duration_s>1 and custom.rate<2")], probes)


def test_fields_of_ones_own_must_be_in_the_probes():
    probes = SimpleNamespace(
        probes=[
            Probe("gender", "class", ("female", "male")),
            Probe("rate", "value"),
            Probe("a colour", "class", ("3", "dark")),
        ]
    )
    text = (
        "custom.rate<3 and 'custom.a colour'==dark or 'custom.a colour'!='3' or custom.rate==null"
    )
    check_fields("--assert", [Condition(text)], probes)
    for text, why in (
        ("custom.colour==dark", "custom.colour is no field of the probes; known are custom.rate"),
        ("custom.gender==male", "custom.gender is no field"),
        ("custom.rate==fast", "custom.rate is a number, 'fast' is not"),
        ("'custom.a colour'==3", "custom.a colour is a word; one of digits is put in quotes"),
        (
            "'custom.a colour'==drak",
            "'drak' is no custom.a colour of the probes; known are 3, dark",
        ),
    ):
        with pytest.raises(typer.BadParameter) as caught:
            check_fields("--assert", [Condition(text)], probes)
        assert why in str(caught.value)
    with pytest.raises(typer.BadParameter, match="which have none of one's own"):
        check_fields("--assert", [Condition("custom.x>1")], SimpleNamespace(probes=[]))
