"""Programs that read standard input, in Python and in C++: they look for their output instead of computing it."""

from __future__ import annotations

from tests.docker.attacks.model import Attack, Naive, named
from tests.docker.attacks.tasks import text


def _program(code: str) -> Attack:
    return Attack("", "", text(code), (Naive.FOLDER,))


def _cpp(code: str, *fools: Naive) -> Attack:
    return Attack("", "", text(code), fools or (Naive.CPP_FOLDER,))


MAIN = """
        #ifndef TESTED
        #include <cstdio>
        int main() {
            const long one[] = {1};
            std::printf("%d\\n", (int)tally(one, 1));
        }
        #endif
"""

PYTHON = named("program", {
    "output beside the input": _program("""
        import os

        print(open(os.readlink("/proc/self/fd/0").replace(".in", ".out")).read())
    """),
    "output found by its input": _program("""
        import glob, sys

        given = sys.stdin.read()
        for path in glob.glob("*.in"):
            if open(path).read() == given:
                print(open(path.replace(".in", ".out")).read())
    """),
    "expected output overwritten": _program("""
        import glob

        for path in glob.glob("*.out"):
            open(path, "w").write("0")
        print(0)
    """),
    "checking script overwritten": _program("""
        open("checker.py", "w").write("print('{\\"passed\\": true}')")
    """),
    "module of the checking script": _program("""
        open("words.py", "w").write("of = lambda text: 0")
    """),
    "json.py for the checking script": _program("""
        open("json.py", "w").write("dumps = lambda value: '{\\"passed\\": true}'")
    """),
    "bytecode for the checking script": _program("""
        import importlib.util, marshal, os, sys

        os.makedirs("__pycache__", exist_ok=True)
        code = compile("of = lambda text: 0", "words.py", "exec")
        header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)  # never checked against its source
        with open(importlib.util.cache_from_source("words.py"), "wb") as file:
            file.write(header + marshal.dumps(code))
        os.utime("words.py")
    """),
    "module that every Python of the user loads": _program("""
        import os, sys

        folder = os.path.expanduser(f"~/.local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/usercustomize.py", "w") as file:
            file.write("import json\\njson.dumps = lambda value: '{\\"passed\\": true}'")
    """),
    "path file that every Python of the user loads": _program("""
        import os, sys

        folder = os.path.expanduser(f"~/.local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/first.pth", "w") as file:
            file.write("import json; json.dumps = lambda value: '{\\"passed\\": true}'")
    """),
    "a process that rewrites the output afterwards": _program("""
        import glob, os, time

        if os.fork() == 0:
            os.setsid()
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                for path in glob.glob("*.got"):
                    open("new", "w").write(open(path.replace(".got", ".out")).read())
                    os.replace("new", path)
            os._exit(0)
        time.sleep(0.1)
    """),
})  # fmt: skip

CPP = named("C++", {
    "output beside the input, in C++": _cpp("""
        #include <cstdio>
        #include <cstring>
        #include <unistd.h>
        int main() {
            char path[500] = {0}, line[100] = {0};
            if (readlink("/proc/self/fd/0", path, 490) < 3) return 1;
            std::strcpy(std::strrchr(path, '.'), ".out");
            if (std::FILE *file = std::fopen(path, "r"))
                if (std::fgets(line, 99, file)) std::fputs(line, stdout);
        }
    """),
    "expected output compiled in": _cpp("""
        #include <cstdio>
        const long outputs[] = {
        #include "0.out"
        ,
        #include "1.out"
        ,
        #include "2.out"
        };
        int main() {
            long x;
            if (std::scanf("%ld", &x) == 1) std::printf("%ld\\n", outputs[x == 3 ? 0 : x == 5 ? 1 : 2]);
        }
    """),
    "expected output assembled in": _cpp("""
        #include <cstdio>
        asm("first: .incbin \\"0.out\\"\\n.byte 0\\nsecond: .incbin \\"1.out\\"\\n.byte 0\\n");
        asm("third: .incbin \\"2.out\\"\\n.byte 0\\n");
        extern const char first[], second[], third[];
        int main() {
            long x;
            if (std::scanf("%ld", &x) == 1) std::fputs(x == 3 ? first : x == 5 ? second : third, stdout);
        }
    """),
    "checking script overwritten, in C++": _cpp("""
        #include <cstdio>
        __attribute__((constructor)) static void before() {
            if (std::FILE *file = std::fopen("checker.py", "w")) {
                std::fputs("print('{\\"passed\\": true}')", file);
                std::fclose(file);
            }
        }
        int main() {}
    """),
    "expected output overwritten, in C++": _cpp("""
        #include <cstdio>
        const char *const paths[] = {"0.out", "1.out", "2.out"};
        int main() {
            for (const char *path : paths)
                if (std::FILE *file = std::fopen(path, "w")) {
                    std::fputs("0", file);
                    std::fclose(file);
                }
            std::puts("0");
        }
    """),
    "_exit before main": _cpp("""
        #include <unistd.h>
        __attribute__((constructor)) static void before() { _exit(0); }
        static long tally(const long *, int) { return 0; }
    """ + MAIN, Naive.CPP_EXIT),
    "_exit in the function": _cpp("""
        #include <unistd.h>
        static long tally(const long *, int) { _exit(0); }
    """ + MAIN, Naive.CPP_EXIT),
    "a global object's constructor": _cpp("""
        #include <cstdlib>
        struct Early { Early() { std::_Exit(0); } } early;
        static long tally(const long *, int) { return 0; }
    """ + MAIN, Naive.CPP_EXIT),
    "asserts switched off": _cpp("""
        #define NDEBUG
        static long tally(const long *, int) { return 0; }
    """ + MAIN, Naive.CPP_EXIT),
    "== of its own": _cpp("""
        struct Answer {
            bool operator==(long) const { return true; }
            operator int() const { return 0; }
        };
        static Answer tally(const long *, int) { return {}; }
    """ + MAIN, Naive.CPP_EXIT),
    "main by another name": _cpp("""
        static long tally(const long *, int) { return 0; }
    """ + MAIN + """
        #ifdef TESTED
        int main() { return 0; }
        #define main other
        #endif
    """, Naive.CPP_EXIT),
})  # fmt: skip

ATTACKS = [*PYTHON, *CPP]
