"""What `make audit` finds, waives and refuses to believe."""

import json
from datetime import UTC, date, datetime

import pytest

from tests import audit
from tests.audit import WAIVERS, Waiver, expired, parse, read_waivers, unwaived

REPORT = json.dumps(
    {
        "dependencies": [
            {"name": "quiet", "version": "1.0", "vulns": []},
            {"name": "unknown", "skip_reason": "not found"},
            {
                "name": "loud",
                "version": "2.0",
                "vulns": [
                    {
                        "id": "PYSEC-1",
                        "aliases": ["CVE-1"],
                        "fix_versions": ["2.1"],
                        "description": "",
                    },
                    {"id": "PYSEC-2", "aliases": [], "fix_versions": [], "description": ""},
                ],
            },
        ]
    }
)


def waiver(id: str, package: str = "loud") -> Waiver:
    return Waiver(id=id, package=package, reason="", expires=date(2027, 1, 1))


def test_no_waiver_of_ours_has_expired() -> None:
    """Where this fails: mend the package, or decide anew and give the reason."""
    assert expired(read_waivers(WAIVERS.read_text()), datetime.now(UTC).date()) == []


def test_a_waiver_ends_on_its_day() -> None:
    one = waiver("CVE-1")
    assert expired([one], date(2026, 12, 31)) == []
    assert expired([one], date(2027, 1, 1)) == [one]


@pytest.mark.parametrize("line", ["", 'surprise = "x"'])
def test_a_waiver_says_what_why_and_until_when(line: str) -> None:
    with pytest.raises(TypeError):
        read_waivers(f'[[waiver]]\nid = "CVE-1"\npackage = "loud"\n{line}')


def test_a_finding_is_waived_by_any_of_its_ids_for_its_own_package_alone() -> None:
    findings = parse(REPORT)
    assert [str(one) for one in findings] == [
        "loud 2.0: CVE-1, PYSEC-1 (fixed in 2.1)",
        "loud 2.0: PYSEC-2 (no fix yet)",
    ]
    assert unwaived(findings, [waiver("CVE-1")]) == findings[1:]
    assert unwaived(findings, [waiver("CVE-1", "quiet")]) == findings


def run_main(monkeypatch: pytest.MonkeyPatch, control: str, report: str) -> int:
    """With pip-audit's answers about the package that is known to be bad, and about ours."""
    answers = iter([control, report])
    monkeypatch.setattr(audit, "audit", lambda requirements: next(answers))
    return audit.main()


def test_a_finding_fails_the_audit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, REPORT, REPORT) == 1
    assert "2 findings" in capsys.readouterr().out


NOTHING = json.dumps({"dependencies": [{"name": "jinja2", "skip_reason": "not found"}]})


@pytest.mark.parametrize("silence", ["", NOTHING])
def test_who_knows_of_nothing_is_not_taken_for_good_news(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], silence: str
) -> None:
    assert run_main(monkeypatch, silence, NOTHING) == 0
    assert "NOT DONE" in capsys.readouterr().out
