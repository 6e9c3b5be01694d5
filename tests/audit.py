"""Are there published vulnerabilities in what constraints.txt pins?

    python -m tests.audit

Exit status 1 for a finding that no waiver in audit-waivers.toml covers, and for a waiver
that has expired. Where no advisories can be had (no network, or an index that carries
none) it says so and exits 0: pip-audit itself would report "no known vulnerabilities".
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
WAIVERS = ROOT / "audit-waivers.toml"
KNOWN_BAD = "jinja2==2.10"
"""CVE-2019-10906: whoever knows of nothing here knows of nothing at all."""


@dataclass(frozen=True)
class Waiver:
    id: str
    package: str
    reason: str
    expires: date
    """The first day on which it counts no more."""


@dataclass(frozen=True)
class Finding:
    package: str
    version: str
    ids: frozenset[str]
    """The advisory's, and those of other databases for it."""
    fixed_in: Sequence[str]

    def __str__(self) -> str:
        fix = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fix yet"
        return f"{self.package} {self.version}: {', '.join(sorted(self.ids))} ({fix})"


def read_waivers(text: str) -> list[Waiver]:
    """Raises TypeError for a waiver that lacks a key or has one too many."""
    return [Waiver(**entry) for entry in tomllib.loads(text).get("waiver", [])]


def expired(waivers: Iterable[Waiver], today: date) -> list[Waiver]:
    return [waiver for waiver in waivers if waiver.expires <= today]


def unwaived(findings: Iterable[Finding], waivers: Iterable[Waiver]) -> list[Finding]:
    waived = {(waiver.package, waiver.id) for waiver in waivers}
    return [one for one in findings if not {(one.package, id) for id in one.ids} & waived]


def parse(report: str) -> list[Finding]:
    """Of pip-audit's JSON. Raises ValueError when it is none: pip-audit failed."""
    return [
        Finding(
            package=package["name"],
            version=package["version"],
            ids=frozenset((one["id"], *one["aliases"])),
            fixed_in=one["fix_versions"],
        )
        for package in json.loads(report)["dependencies"]
        for one in package.get("vulns", [])
    ]


def audit(requirements: Path) -> str:
    command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off"]
    command += ["--disable-pip", "--no-deps", f"--requirement={requirements}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def knows_anything() -> bool:
    """Whether advisories can be had here."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(KNOWN_BAD)
        file.flush()
        try:
            return bool(parse(audit(Path(file.name))))
        except ValueError:
            return False


def main() -> int:
    waivers = read_waivers(WAIVERS.read_text())
    over = expired(waivers, datetime.now(UTC).date())
    for waiver in over:
        print(f"audit: the waiver of {waiver.id} for {waiver.package} ended {waiver.expires}")
    if not knows_anything():
        print(
            f"audit: NOT DONE. No advisories can be had here, not even {KNOWN_BAD}'s.\n"
            "       Run `make audit` where pypi.org's JSON API answers."
        )
        return int(bool(over))
    findings = unwaived(parse(audit(ROOT / "constraints.txt")), waivers)
    for finding in findings:
        print(f"audit: {finding}")
    print(f"audit: {len(findings)} findings without a waiver")
    return int(bool(over or findings))


if __name__ == "__main__":
    sys.exit(main())
