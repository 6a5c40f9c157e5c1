"""make release: what keeps a checkout from being released."""

import shutil
import subprocess
from pathlib import Path

import pytest

from proofs import release

pytestmark = pytest.mark.engines()
CHANGES = "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-11-22\n\n### Added\n\n- All.\n"


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One that is ready to become 1.2.0."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    (tmp_path / "uringzc").mkdir()
    (tmp_path / "uringzc" / "__init__.py").write_text('"""It."""\n\n__version__ = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "All.")
    return tmp_path


def test_a_checkout_that_is_ready_has_no_problem(checkout: Path) -> None:
    assert release.not_ready("1.2.0", checkout) == []


def test_another_version_is_refused(checkout: Path) -> None:
    said = release.not_ready("1.3.0", checkout)
    assert said == [
        "uringzc.__version__ is not 1.3.0, as in pyproject.toml",
        "CHANGELOG.md has no section `## [1.3.0] - DATE`",
    ]


def test_uncommitted_files_are_refused(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text(CHANGES + "- More.\n")
    (checkout / "more.py").touch()
    assert release.not_ready("1.2.0", checkout) == ["not committed: CHANGELOG.md, more.py"]


def test_a_tag_that_exists_is_refused(checkout: Path) -> None:
    git(checkout, "tag", "v1.2.0")
    (said,) = release.not_ready("1.2.0", checkout)
    assert "there is a tag v1.2.0 already" in said


def test_changes_that_are_still_unreleased_are_refused(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text(
        CHANGES.replace("[Unreleased]\n", "[Unreleased]\n\n### Added\n\n- More.\n")
    )
    git(checkout, "commit", "--quiet", "-am", "More.")
    (said,) = release.not_ready("1.2.0", checkout)
    assert "has changes under Unreleased" in said
