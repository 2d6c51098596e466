"""Names that others chose do nothing where the product prints or writes them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import artifact_samples
import pytest

from deploy.bundles.card import model_card
from deploy.bundles.manifest import MANIFEST, Verdict
from deploy.errors import DataError, in_cell, plain
from pipeline import cli
from pipeline.results import verdicts
from pipeline.results.table import grid
from pipeline.terminal.answer import Answer, emit
from stages.config import GateConfig
from stages.notes import Kind, Notes, note_lines

EVIL = "a\n::error file=x::pwned\r%0A\x1b[2J\u202e##[error]b"
SHOWN = "a\\n::error file=x::pwned\\r%0A\\x1b[2J\\u202e#\\#[error]b"
EVILS = {
    EVIL: SHOWN,
    "::error::x": "\\:\\:error::x",
    "  ::add-mask::x": "  \\:\\:add-mask::x",
    "##vso[task.complete]x": "#\\#vso[task.complete]x",
    "##teamcity[x]": "#\\#teamcity[x]",
    "\x85\u2028\u2029": "\\x85\\u2028\\u2029",
    "\udcff": "\\udcff",
}
HARMLESS = ("cell", "Zelle: ä", "学习 \u3000", "a::b", "## heading", "می\u200cروم", "100 %", "C:\\x", "👩\u200d🔬")
ONE = Verdict(name=EVIL, target="here", metric="map", verdict="fail", measured=0.1, limit=">= 0.5", why=EVIL)


def is_quiet(text: str) -> bool:
    """Whether a terminal and a CI system only show a text."""
    lines = text.split("\n")
    return not any(line.lstrip().startswith("::") or "##[" in line for line in lines) and all(map(str.isprintable, lines))


class TestPlain:
    @pytest.mark.parametrize(("given", "shown"), EVILS.items())
    def test_what_acts_is_escaped(self, given: str, shown: str) -> None:
        assert plain(given) == shown
        assert is_quiet(plain(given))

    @pytest.mark.parametrize("name", HARMLESS)
    def test_names_in_any_script_stay_as_they_are(self, name: str) -> None:
        assert plain(name) == name

    def test_a_cell_of_markdown_has_no_links_images_code_or_html(self) -> None:
        assert in_cell("![x](http://y/z.png)|`a`<img src=x>") == "!\\[x\\](http://y/z.png)\\|\\`a\\`&lt;img src=x>"


class TestPrinting:
    def test_answers_errors_and_json_are_quiet(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(_: object) -> Answer:
            raise DataError(f"{EVIL}: no such image")

        monkeypatch.setattr(cli, "_function", lambda _: fails)
        assert cli.main(["gate", "x", "--json"]) == 3
        found = capsys.readouterr()
        assert is_quiet(found.err)
        assert "##" not in found.out
        assert found.out.count("\n") == 1
        assert json.loads(found.out)["error"].endswith("##[error]b: no such image")
        emit(Answer({}, f"two\nlines of {EVIL}"), as_json=False)
        assert is_quiet(capsys.readouterr().out)

    def test_tables_verdicts_and_notes_keep_their_lines(self) -> None:
        for text in (grid(["gate", "verdict"], [[EVIL, "pass"]]), verdicts.text([ONE])):
            assert is_quiet(text)
            assert "\n::" not in text
        notes = Notes()
        notes.add(Kind("odd name", "repaired", "files"), "train", EVIL)
        (line,) = note_lines(list(notes))
        assert is_quiet(line)

    def test_reports_for_ci_are_quiet(self) -> None:
        for text in (verdicts.markdown([ONE], 10), verdicts.junit([ONE])):
            assert is_quiet(text)
        assert verdicts.markdown([ONE], 10).count("\n") == 5

    def test_annotations_are_commands_and_nothing_in_them_is(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        made = verdicts.annotate([ONE], [GateConfig(metric="map", min=0.5, name=EVIL)], None, settings=())
        assert [line[:8] for line in made] == ["::error "]
        emit(Answer({}, "::error::of a stranger", commands=made), as_json=False)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "\\:\\:error::of a stranger"
        assert lines[1:] == made
        assert all(map(str.isprintable, lines))

    def test_a_bundle_of_evil_names_is_judged_quietly(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        made = artifact_samples.bundle(tmp_path)
        manifest = json.loads((made.root / MANIFEST).read_text())
        manifest["verdicts"][0]["name"] = EVIL
        artifact_samples.resign(made.root, manifest)
        assert cli.main(["gate", str(made.root)]) == 0
        out = capsys.readouterr().out
        assert SHOWN in out
        assert is_quiet(out)

    def test_a_model_card_has_one_row_for_each_name(self, tmp_path: Path) -> None:
        made = artifact_samples.bundle(tmp_path)
        contract = made.manifest.contract.model_copy(update={"classes": (EVIL, "![x](http://y)", "blue")})
        card = model_card(made.manifest.model_copy(update={"contract": contract}))
        assert is_quiet(card)
        assert "!\\[x\\](http://y)" in card


COMMAND = (sys.executable, "-P", "-c", "import sys; from pipeline.cli import main; sys.exit(main())")


class TestProcess:
    def test_closed_streams_are_no_error(self, tmp_path: Path) -> None:
        (tmp_path / "p.yaml").write_text("nam: x\n")
        for closed in (">&-", ">&- 2>&-", "<&- >&- 2>&-"):
            line = f'"$@" config {tmp_path / "p.yaml"} {closed}; exit $?'
            done = subprocess.run(["sh", "-c", line, "sh", *COMMAND], capture_output=True, check=False, timeout=60, text=True)
            assert (done.returncode, "Traceback" in done.stderr) == (2, False)

    def test_a_forked_child_ends_at_once(self) -> None:
        code = (
            "import os, signal, time\nfrom pipeline.terminal.refusals import sigterm_raises\n"
            "with sigterm_raises():\n    pid = os.fork()\n    if pid == 0:\n        time.sleep(60)\n        os._exit(0)\n"
            "    time.sleep(0.5)\n    os.kill(pid, signal.SIGTERM)\n    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        )
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True, timeout=50, text=True, env=os.environ)
        assert (done.stdout, done.stderr, time.monotonic() - started < 40) == ("-15\n", "", True)
