"""Runs cells of Python one after the other in one namespace. Started inside the sandbox by the tool `python`.

Requests come on standard input, answers go to standard output, both as frames: the length of a head (4 bytes, big-endian), the length
of a body (8 bytes), the head (JSON), the body. What cells print, by whichever way, goes to standard error.

  put PATH + bytes, remove PATH     the files of the space, before a cell
  home PATH + bytes                 what a library would otherwise work out again in every interpreter
  run NUMBER CODE MARK              a cell; answered by `file` PATH + bytes and `removed` PATH for what it changed, then `done`

Nothing here is a wall: a cell can do to this program what it likes, and deceives itself alone.
"""

import os
import sys

SEED = bytes.fromhex(sys.argv[1])
MOST_FILES = int(sys.argv[2])
MOST_BYTES = int(sys.argv[3])
sys.argv[:] = [""]


def chance(seed):
    """Random bytes that are the same when the cells are run again: SHA-256 of a secret and a counter."""
    from hashlib import sha256

    count = 0

    def urandom(size):
        nonlocal count
        out = bytearray()
        while len(out) < size:
            out += sha256(seed + count.to_bytes(8, "big")).digest()
            count += 1
        return bytes(out[:size])

    return urandom


# Before anything that takes random bytes from it is imported: `random`, and through it `secrets`, `uuid`, NumPy.
os.urandom = chance(SEED)

import ast
import builtins
import io
import json
import linecache
import random
import traceback
import types
import warnings

MOST_VALUE = 20_000
MOST_ERROR = 8_000

random.seed(SEED)
for folder in ("work", "home", "tmp"):
    os.makedirs(folder, exist_ok=True)
ROOT = os.getcwd()
os.environ.update(HOME=f"{ROOT}/home", TMPDIR=f"{ROOT}/tmp", MPLCONFIGDIR=f"{ROOT}/home")
# Matplotlib looks for fonts through fontconfig, whose own settings are not here.
FONTS = "<fontconfig><dir>/usr/share/fonts</dir><cachedir>{}/home</cachedir></fontconfig>"
os.environ["FONTCONFIG_FILE"] = f"{ROOT}/home/fonts.conf"
with open(os.environ["FONTCONFIG_FILE"], "w") as file:
    file.write(FONTS.format(ROOT))
WORK = f"{ROOT}/work"
os.chdir(WORK)

requests = os.fdopen(os.dup(0), "rb")
answers = os.fdopen(os.dup(1), "wb")
nothing = os.open("/dev/null", os.O_RDONLY)
os.dup2(nothing, 0)
os.dup2(2, 1)
os.close(nothing)
# One stream for both, so that what is printed stays in its order.
sys.stdin = open(0, encoding="utf-8", closefd=False)
sys.stdout = sys.stderr = io.TextIOWrapper(
    io.BufferedWriter(io.FileIO(2, "w", closefd=False)), "utf-8", "backslashreplace", line_buffering=True
)
warnings.filterwarnings("ignore", message=".*(is non-interactive|which is a non-GUI backend).*")



def nobody(*_):
    raise RuntimeError("nobody can type here: put the value into the code")


builtins.input = nobody
SELF = os.getpid()


def alone():
    """A process that a cell forks does not speak for this one."""
    for stream in (requests, answers):
        os.close(stream.fileno())


os.register_at_fork(after_in_child=alone)
main = types.ModuleType("__main__")
sys.modules["__main__"] = main
known = {}


def receive():
    lengths = requests.read(12)
    if len(lengths) < 12:
        os._exit(0)
    head = json.loads(requests.read(int.from_bytes(lengths[:4], "big")))
    return head, requests.read(int.from_bytes(lengths[4:], "big"))


def clean(said):
    """Without halves of characters, which JSON readers refuse."""
    if isinstance(said, str):
        return said.encode("utf-8", "backslashreplace").decode()
    return [clean(one) for one in said] if isinstance(said, list) else said


def send(head, body=b""):
    head = {key: clean(said) for key, said in head.items()}
    head = json.dumps(head, ensure_ascii=True).encode()
    answers.write(len(head).to_bytes(4, "big") + len(body).to_bytes(8, "big") + head)
    answers.write(body)
    answers.flush()


def cut(text, most):
    """The beginning and the end of a long text, and how much is missing."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def mark_of(path):
    stat = os.lstat(path)
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns)


def files():
    """Regular files below the working folder, by their path in the space."""
    found = {}
    for folder, _, names in os.walk(WORK):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                found[os.path.relpath(path, WORK)] = mark_of(path)
    return found


def home(path, body):
    with open(os.path.join(ROOT, "home", path), "wb") as file:
        file.write(body)


def put(path, body):
    full = os.path.join(WORK, path)
    try:
        os.makedirs(os.path.dirname(full), exist_ok=True)
        if os.path.islink(full):
            os.unlink(full)
        with open(full, "wb") as file:
            file.write(body)
        known[path] = mark_of(full)
        return None
    except OSError as error:
        return f"{path}: {error.strerror or error}"


def remove(path):
    try:
        os.unlink(os.path.join(WORK, path))
    except OSError:
        pass
    known.pop(path, None)


def own(filename):
    return filename.startswith("<cell ") or filename.startswith(WORK + "/")


def trim(shown):
    """Frames of libraries and of this program say nothing to whoever wrote the cell."""
    shown.stack = traceback.StackSummary.from_list([frame for frame in shown.stack if own(frame.filename)])
    for inner in (shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())):
        if inner is not None:
            trim(inner)


def describe(error):
    try:
        shown = traceback.TracebackException.from_exception(error, limit=-100)
        trim(shown)
        return cut("".join(shown.format()).rstrip(), MOST_ERROR)
    except BaseException as worse:
        return f"{type(error).__name__} (and showing it failed: {type(worse).__name__})"


def figures():
    """Open figures become files of the working folder."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    for number in pyplot.get_fignums():
        free = 1
        while os.path.lexists(f"{WORK}/figure-{free}.png"):
            free += 1
        pyplot.figure(number).savefig(f"{WORK}/figure-{free}.png", dpi=100)
        pyplot.close(number)


def execute(number, code):
    """The text of the last expression's value and that of an error, where there are such."""
    name = f"<cell {number}>"
    linecache.cache[name] = (len(code), None, code.splitlines(True), name)
    value = None
    try:
        tree = ast.parse(code, name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        exec(compile(tree, name, "exec"), main.__dict__)
        if last is not None:
            value = eval(compile(last, name, "eval"), main.__dict__)
        if value is not None:
            main._ = value
            value = cut(repr(value), MOST_VALUE)
        figures()
        return value, None
    except BaseException as error:
        return None, describe(error)


def changed():
    """Sends what is other than before the cell."""
    global known
    found = files()
    left_out = []
    new = [path for path in sorted(found) if known.get(path) != found[path]]
    for path in new[MOST_FILES:]:
        left_out.append(f"{path}: more than {MOST_FILES} files")
    for path in new[:MOST_FILES]:
        if found[path][0] > MOST_BYTES:
            left_out.append(f"{path}: {found[path][0]} bytes, at most {MOST_BYTES}")
            continue
        try:
            with open(os.path.join(WORK, path), "rb") as file:
                send({"kind": "file", "path": path}, file.read(MOST_BYTES))
        except OSError as error:
            left_out.append(f"{path}: {error.strerror or error}")
    for path in known.keys() - found.keys():
        send({"kind": "removed", "path": path})
    known = found
    return left_out


def serve():
    refused = []
    while True:
        head, body = receive()
        if head["op"] == "put":
            refused.append(put(head["path"], body))
        elif head["op"] == "remove":
            remove(head["path"])
        elif head["op"] == "home":
            home(head["path"], body)
        else:
            value, error = execute(head["number"], head["code"])
            if os.getpid() != SELF:
                sys.stdout.flush()
                os._exit(0 if error is None else 1)
            left_out = [why for why in refused if why]
            refused = []
            try:
                sys.stdout.flush()
                os.chdir(WORK)
                left_out += changed()
            except BaseException as worse:
                left_out.append(f"files were not looked at: {type(worse).__name__}: {worse}")
            os.write(2, head["mark"].encode())
            send({"kind": "done", "mark": head["mark"], "value": value, "error": error, "left_out": left_out[:20]})


serve()
