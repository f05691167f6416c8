"""Builds the site into docs/_build/html: `python docs/build.py`, then open index.html there.

Needs `pip install ".[docs]"`, node and npm; KaTeX is fetched once, into docs/node_modules. Every warning is an error.
A second run reads only what has changed, and writes every page again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from reports import write_reports

DOCS = Path(__file__).resolve().parent
BUILD = DOCS / "_build"
KATEX = DOCS / "node_modules" / "katex" / "dist"


def fetch_katex() -> None:
    """The version that package-lock.json names, unless it is there."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        sys.exit(f"the maths of the site needs {' and '.join(missing)}: https://nodejs.org")
    installed = DOCS / "node_modules" / ".package-lock.json"  # npm writes it last
    lock = DOCS / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(npm, cwd=DOCS, check=True)


def copy_katex() -> None:
    """Its style sheet and fonts, which the pages load from beside them."""
    target = BUILD / "static" / "katex"
    (target / "fonts").mkdir(parents=True, exist_ok=True)
    shutil.copy2(KATEX / "katex.min.css", target)
    for font in (KATEX / "fonts").glob("*.woff2"):
        shutil.copy2(font, target / "fonts")


def main() -> int:
    target = BUILD / "html"
    fetch_katex()
    copy_katex()
    write_reports(BUILD / "static" / "reports")
    shutil.rmtree(target, ignore_errors=True)  # a page whose source is gone is not to stay
    trees = BUILD / "trees"
    folders = ["-d", str(trees), "-c", str(DOCS), str(DOCS.parent), str(target)]
    status = subprocess.run([sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", *folders]).returncode
    if status:
        # what has been read is not read again, nor warned about: the next run is to say it once more
        shutil.rmtree(trees, ignore_errors=True)
    else:
        print(f"built: {target / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
