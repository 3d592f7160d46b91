from __future__ import annotations

from jboost.cli.json_output import write_json

CONTENT = {"images": 3, "names": ["é"]}


def test_json_goes_where_the_option_says(tmp_path, capsys) -> None:
    file = tmp_path / "out.json"
    write_json(CONTENT, str(file))
    write_json(CONTENT, None)
    text = '{\n  "images": 3,\n  "names": [\n    "\\u00e9"\n  ]\n}\n'
    assert file.read_text() == text
    assert capsys.readouterr().out == ""
    write_json(CONTENT, "-")
    assert capsys.readouterr().out == text
    write_json(CONTENT, "-", stdout_indent=None)
    assert capsys.readouterr().out == '{"images": 3, "names": ["\\u00e9"]}\n'
