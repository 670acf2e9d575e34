"""Naive harnesses. This file is the text of a `python3 -c` in a plain container; it never runs outside one.

It gets jobs as JSON (argument 2) and prints, for each and after a marker (argument 1), which of the asked harnesses took the
submission for right.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys

PYTHON = sys.executable
WAIT_S, COMPILER_WAIT_S, SERVER_WAIT_S = 4.0, 60.0, 3.0

FLAG_RUNNER = """
import sys

def run():
    code, tests, nonce = (open(path).read() for path in sys.argv[1:4])
    space = {"__name__": "__main__"}
    exec(compile(code, "submission.py", "exec"), space)
    exec(compile(tests, "tests.py", "exec"), space)
    print("PASSED", nonce)

run()
"""

VALUES_RUNNER = """
import json, os, sys

tests = json.load(open(sys.argv[2]))
space = {"__name__": "__main__"}
exec(compile(open(sys.argv[1]).read(), "submission.py", "exec"), space)
results = []
for case in tests["cases"]:
    args, expected = case
    try:
        value = space[tests["function"]](*args)
        results.append(bool(abs(value - expected) < 1e-6 if isinstance(expected, float) else value == expected))
    except Exception:
        results.append(False)
os.write(int(sys.argv[3]), json.dumps(results).encode())
"""

CHECKER = """
import json, sys
import words

got, wanted = (words.of(open(path, errors="replace").read()) for path in sys.argv[1:3])
print(json.dumps({"passed": got == wanted}))
"""

SERVER = """
import json, os, subprocess, sys, time

tests = open("tests.json")
secret = json.load(tests)["secret"]
for name in ("attack.py", "witness.py"):
    try:
        null = subprocess.DEVNULL
        done = subprocess.run([sys.executable, name], stdin=null, stdout=subprocess.PIPE, stderr=null, timeout=1.5)
        print(done.stdout[-2000:].decode(errors="replace"), flush=True)
    except subprocess.TimeoutExpired:
        pass
print("SERVED", flush=True)
"""


def put(name, content):
    with open(name, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(content)


def run(command, *, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=(), wait_s=WAIT_S):
    """The finished process; None where it did not end in time."""
    try:
        return subprocess.run(
            command, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL, timeout=wait_s, check=False, pass_fds=pass_fds
        )
    except subprocess.TimeoutExpired:
        return None


def by_exit_status(job):
    put("solution.py", f"{job['code']}\n{job['tests']}\n")
    done = run([PYTHON, "solution.py"])
    return done is not None and done.returncode == 0


def by_flag(job):
    nonce = secrets.token_hex(8)
    for name, content in (("submission.py", job["code"]), ("tests.py", job["tests"]), ("nonce", nonce)):
        put(name, content)
    done = run([PYTHON, "-c", FLAG_RUNNER, "submission.py", "tests.py", "nonce"])
    return done is not None and f"PASSED {nonce}".encode() in done.stdout


def by_values(job):
    put("submission.py", job["code"])
    put("tests.json", json.dumps({"function": job["function"], "cases": job["cases"]}))
    reader, writer = os.pipe()
    done = run([PYTHON, "-c", VALUES_RUNNER, "submission.py", "tests.json", str(writer)], pass_fds=[writer])
    os.close(writer)
    os.set_blocking(reader, False)
    try:
        said = os.read(reader, 65536)
        results = json.loads(said.splitlines()[0])
    except (OSError, ValueError, IndexError):
        return False
    finally:
        os.close(reader)
    return done is not None and isinstance(results, list) and len(results) == len(job["cases"]) and all(results)


def in_folder(job, command):
    put("words.py", "def of(text):\n    return text.split()\n")
    put("checker.py", CHECKER)
    for number, (given, wanted) in enumerate(job["io"]):
        put(f"{number}.in", given)
        put(f"{number}.out", wanted)
    verdicts = []
    for number in range(len(job["io"])):
        with open(f"{number}.in") as stdin, open(f"{number}.got", "w") as stdout:
            run(command, stdin=stdin, stdout=stdout)
        checked = run([PYTHON, "checker.py", f"{number}.got", f"{number}.out"])
        verdicts.append(checked is not None and b'"passed": true' in checked.stdout)
    return all(verdicts)


def program_in_folder(job):
    put("solution.py", job["code"])
    return in_folder(job, [PYTHON, "solution.py"])


def compiled(source, *flags):
    put("main.cpp", source)
    done = run(["g++", "-O0", "-o", "main", *flags, "main.cpp"], wait_s=COMPILER_WAIT_S)
    return done is not None and done.returncode == 0


def cpp_by_exit_status(job):
    if not compiled(f"{job['code']}\n{job['cpp_asserts']}", "-DTESTED"):
        return False
    done = run(["./main"])
    return done is not None and done.returncode == 0


def cpp_in_folder(job):
    for number, (given, wanted) in enumerate(job["io"]):
        put(f"{number}.in", given)
        put(f"{number}.out", wanted)
    return compiled(job["code"]) and in_folder(job, ["./main"])


def by_server(job):
    """Whether the attack, or what ran after it, says FOOLED, or the server did not live to its end."""
    put("tests.json", json.dumps({"secret": job["secret"]}))
    put("attack.py", job["code"])
    put("witness.py", job["witness"])
    environment = {**os.environ, "SECRET": job["secret"]}
    server = subprocess.Popen(
        [PYTHON, "-c", SERVER], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, start_new_session=True
    )
    try:
        said, _ = server.communicate(timeout=SERVER_WAIT_S)
    except subprocess.TimeoutExpired:
        os.kill(server.pid, signal.SIGKILL)
        return True
    return b"FOOLED" in said or b"SERVED" not in said


def knows_secret(job):
    return by_server({**job, "witness": "", "code": f"{job['code']}\nprint(find())\n"})


HARNESSES = {
    "exit": by_exit_status,
    "flag": by_flag,
    "values": by_values,
    "folder": program_in_folder,
    "cpp_exit": cpp_by_exit_status,
    "cpp_folder": cpp_in_folder,
    "server": by_server,
    "secret": knows_secret,
}


def main():
    marker, jobs = sys.argv[1], json.loads(sys.argv[2])
    for job in jobs:
        fooled = []
        for name in job["harnesses"]:
            folder = f"/box/naive/{secrets.token_hex(4)}"
            os.mkdir(folder)
            os.chdir(folder)
            os.environ["HOME"] = folder
            if HARNESSES[name](job):
                fooled.append(name)
            with contextlib.suppress(OSError):
                os.kill(-1, signal.SIGKILL)  # whatever was left behind
        os.chdir("/")
        for name in os.listdir("/box/naive"):
            shutil.rmtree(f"/box/naive/{name}", ignore_errors=True)
        for name in os.listdir("/dev/shm"):
            with contextlib.suppress(OSError):
                os.unlink(f"/dev/shm/{name}")
        print(marker + json.dumps({"name": job["name"], "fooled": fooled}), flush=True)


main()
