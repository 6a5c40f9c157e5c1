"""Runs in the distribution, with the Python that uringzc was installed for: doctor, README's programs.

Imports only the standard library. Prints a line of JSON.
"""

import json
import platform
import re
import subprocess
import sys
from pathlib import Path


def run(*command: str) -> str:
    """What it prints; it has to succeed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    if done.returncode:
        sys.exit(f"{command[-1]}\n{done.stderr}")
    return done.stdout


def programs(page: Path) -> list[str]:
    """Each block of Python on it."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def main(readme: str) -> None:
    """With that page's programs."""
    tool = str(Path(sys.executable).with_name("uringzc"))
    engine = json.loads(run(tool, "doctor", "--json"))["engine"]
    said = [run(sys.executable, "-I", "-W", "error", "-c", program) for program in programs(Path(readme))]
    assert said[-1].splitlines()[-1] == "b'hello'", said[-1]
    maps = "import uringzc; print('liburing' in open('/proc/self/maps').read())"
    linked = run(sys.executable, "-I", "-c", maps).strip() == "True"
    liburing = run("pkg-config", "--modversion", "liburing").strip() if linked else ""
    found = {
        "engine": engine,
        "programs": len(said),
        "liburing": liburing,
        "python": platform.python_version(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
