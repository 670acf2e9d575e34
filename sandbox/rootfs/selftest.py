"""Run inside a new image, as nobody: is everything there that submissions may use, and nothing that they must not have?

Prints what it found as one line of JSON. Arguments: a folder to write to, and the layers.
"""

import importlib
import json
import os
import platform
import stat
import subprocess
import sys

# What coding tasks import; a Python that was built without one of these would turn good submissions into wrong ones.
MODULES = (
    "array ast asyncio base64 bisect bz2 calendar cmath collections concurrent.futures contextlib copy csv ctypes dataclasses "
    "datetime decimal difflib enum fractions functools gc hashlib heapq html inspect io itertools json logging lzma math "
    "multiprocessing numbers operator os pathlib pickle queue random re resource secrets select shutil signal socket sqlite3 ssl "
    "statistics string struct subprocess tempfile textwrap threading time traceback types typing unicodedata unittest uuid zlib"
).split()
SCIENCE = ("numpy", "sympy", "mpmath")
SHELLS = ("sh", "bash", "dash", "busybox", "su", "sudo", "mount", "apt-get", "dpkg", "pip", "pip3")
PROGRAM = (
    "#include <bits/stdc++.h>\nint main() { std::vector<int> v{3, 1, 2}; std::sort(v.begin(), v.end()); std::cout << v[0]; }\n"
)


def main(folder: str, layers: list[str]) -> None:
    os.chdir(folder)
    facts = {"python": platform.python_version()}
    faults: list[str] = []
    for name in MODULES:
        faults += _import(name)
    if "science" in layers:
        for name in SCIENCE:
            faults += _import(name)
            facts[name] = getattr(sys.modules.get(name), "__version__", "")
    if "cpp" in layers:
        facts["g++"], fault = _compile()
        faults += fault
    folders = sorted({os.path.realpath(folder) for folder in ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin")})
    places = [f"{folder}/{name}" for folder in folders for name in SHELLS]
    faults += [f"{place} is there" for place in places if os.path.lexists(place)]
    faults += _special_files()
    if os.readlink("/tmp") != "/proc/self/cwd":
        faults.append("/tmp is not the working directory")
    print(json.dumps({"facts": facts, "faults": faults}))


def _import(name: str) -> list[str]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        return [f"import {name}: {error}"]
    return []


def _compile() -> tuple[str, list[str]]:
    with open("a.cpp", "w") as file:
        file.write(PROGRAM)
    try:
        version = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True).stdout.strip()
        subprocess.run(["g++", "-O2", "-std=c++17", "a.cpp", "-o", "a"], capture_output=True, text=True, check=True)
        output = subprocess.run(["./a"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return "", [f"g++: {error}: {getattr(error, 'stderr', '')}"]
    return version, [] if output == "1" else [f"a compiled program printed {output!r} instead of '1'"]


def _special_files() -> list[str]:
    """Programs that would run as another user, and files of the image that anybody may write."""
    found = []
    for folder, folders, files in os.walk("/"):
        if folder == "/":
            folders[:] = [name for name in folders if name not in ("proc", "sys", "dev", "box", "sock")]
        for name in folders + files:
            mode = os.lstat(os.path.join(folder, name)).st_mode
            if mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISLNK(mode):
                found.append(f"{os.path.join(folder, name)} is setuid or setgid")
            if mode & stat.S_IWOTH and not stat.S_ISLNK(mode):
                found.append(f"{os.path.join(folder, name)} can be written by anybody")
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
