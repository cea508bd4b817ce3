"""How records and options of codecs are shown: condu's by name, any other's by key."""

from condu_cli.cli.writing.codec_words import figure, key_name, keys_of, options_line

RECORD = {"l1_norm": 1234.5678, "mask_density": 0.25, "rescaler": 1.23456789}
OTHER = {"bits_per_weight": 3.25, "kind": "fine"}


def test_condus_figures_have_their_order_and_ls_leaves_one_out():
    assert keys_of([RECORD]) == ["rescaler", "mask_density", "l1_norm"]
    assert keys_of([RECORD], listed=True) == ["rescaler", "mask_density"]


def test_other_keys_follow_by_name_and_each_is_named_once():
    assert keys_of([OTHER, RECORD, {"age": 1}], listed=True) == [
        "rescaler",
        "mask_density",
        "age",
        "bits_per_weight",
        "kind",
    ]
    assert keys_of([]) == []


def test_figures_are_written_as_they_are_read_best():
    assert [figure(RECORD, "rescaler", digits) for digits in (3, 6)] == ["1.235", "1.234568"]
    assert figure(RECORD, "mask_density") == "25.0 %"
    assert figure(RECORD, "l1_norm") == "1234.57"
    assert [figure(OTHER, key) for key in OTHER] == ["3.25", "fine"]
    assert figure(OTHER, "rescaler") == "-"


def test_keys_have_names():
    assert [key_name(key) for key in ("l1_norm", "bits_per_weight")] == [
        "L1 norm of delta",
        "bits per weight",
    ]


def test_a_codec_and_its_options_are_one_line():
    condu = {"dtype": "int8", "rescaler": "row"}
    old = "unified delta in int8, rescalers: row, exact: nothing, trimmed: 0.0 %"
    assert options_line("condu", condu) == old
    new = "unified delta in int8, rescalers: row, exact: vectors, end, trimmed: 25.0 %"
    assert options_line("condu", {**condu, "exact": "vectors,end", "trim": "0.25"}) == new
    assert options_line("condu", {"dtype": "int8"}) == "codec condu: dtype int8"
    assert options_line("plain", {}) == "codec plain"
