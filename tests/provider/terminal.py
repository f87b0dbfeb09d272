"""Runs a command on a terminal of its own: terminal.py CODE ROWS COLS COMMAND… -- ACT…

An act is wait:TEXT (within 60 s), type:TEXT (with a return) or key:N (a control byte). Exits with 1
when the command does not end with CODE.
"""
import fcntl, os, pty, select, struct, sys, termios, time

code, rows, cols = (int(word) for word in sys.argv[1:4])
words = sys.argv[4:]
split = len(words) - 1 - words[::-1].index("--")
command, acts = words[:split], words[split + 1:]

pid, terminal = pty.fork()
if pid == 0:
    time.sleep(0.3)  # until the size is set
    os.execvp(command[0], command)
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
seen = b""


def read(deadline):
    global seen
    ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.time()))
    if not ready:
        return False
    try:
        piece = os.read(terminal, 4096)
    except OSError:
        return False
    seen += piece
    return bool(piece)


for act in acts:
    kind, _, text = act.partition(":")
    if kind == "type":
        os.write(terminal, text.encode() + b"\r")
    elif kind == "key":
        os.write(terminal, bytes([int(text)]))
    else:
        deadline = time.time() + 60
        while text.encode() not in seen:
            if not read(deadline):
                sys.exit(f"FAILED: no {text!r} on the terminal, but {seen!r}")
while read(time.time() + 60):
    pass
ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
if ended != code:
    sys.exit(f"FAILED: ended with {ended} instead of {code}: {seen!r}")
print(f"ok: on a terminal: {' '.join(command)}")
