# tier: ci
# minutes: 4
# Commands in a guest behave like commands here: streams, terminal, size, signals, exit codes.
source /usr/local/lib/mvm-e2e/prelude.sh

id=$(one_instance acme workers)
mvm --quiet instance start "$id"
status_of() { local got=0; "$@" >/dev/null 2>&1 || got=$?; echo "$got"; }

say 'exit codes'
equal 'an exit code is passed on' "$(status_of guest "$id" sh -c 'exit 42')" 42
equal 'a signal is 128 and its number' "$(status_of guest "$id" sh -c 'kill -KILL $$')" 137
equal 'no such program' "$(status_of guest "$id" /bin/absent)" 127
equal 'no program at all' "$(status_of guest "$id" /etc/passwd)" 126
equal 'no such instance is no code of a guest' "$(status_of guest acme/workers/i-00000000 true)" 125

say 'streams'
equal 'the two outputs stay apart' "$(guest "$id" sh -c 'echo out; echo err >&2' 2>/dev/null)" out
head -c 4000000 /dev/urandom >/tmp/bytes
sum=$(sha256sum </tmp/bytes)
equal '4 MB go in unchanged' "$(mvm instance exec -i "$id" -- sha256sum </tmp/bytes)" "$sum"
equal '4 MB come back unchanged' "$(mvm instance exec -i "$id" -- cat </tmp/bytes | sha256sum)" "$sum"
equal 'user, directory, variable' "$(mvm instance exec -u nobody -w /tmp -e 'A=b c' "$id" -- sh -c 'id -un; pwd; echo $A' | tr '\n' ' ')" 'nobody /tmp b c '

say 'signals and terminals'
INSTANCE=$id python3 - <<'PY'
import fcntl, os, pty, select, signal, struct, subprocess, sys, termios, time

instance = os.environ["INSTANCE"]

def check(what, good, seen=""):
    if not good: sys.exit(f"FAILED: {what}: {seen!r}")
    print(f"ok: {what}", flush=True)

class Terminal:
    """A command at a terminal of its own."""
    def __init__(self, rows, cols, *command):
        self.seen = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
            os.execvp("mvm", ["mvm", "instance", "exec", "-it", instance, "--", *command])
    def until(self, word, seconds=30):
        end = time.monotonic() + seconds
        while word not in self.seen:
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                sys.exit(f"FAILED: no {word!r} in {self.seen!r}")
            try: more = os.read(self.fd, 4096)
            except OSError: more = b""
            if not more: sys.exit(f"FAILED: it ended without {word!r}: {self.seen!r}")
            self.seen += more
    def type(self, text): os.write(self.fd, text)
    def resize(self, rows, cols): fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
    def mode(self): return termios.tcgetattr(self.fd)
    def code(self): return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

loop = 'tty; stty size; while read -r line; do case $line in size) stty size;; end) exit 7;; esac; done'
at = Terminal(33, 101, "sh", "-c", loop)
at.until(b"33 101")
check("the guest's command has a terminal of our size", b"/dev/pts/" in at.seen, at.seen)
check("our own terminal is raw meanwhile", not at.mode()[3] & termios.ICANON)
at.resize(40, 120)
for _ in range(60):
    at.seen = b""; at.type(b"size\n"); at.until(b"\n"); at.until(b" ")
    time.sleep(0.2)
    while select.select([at.fd], [], [], 0)[0]: at.seen += os.read(at.fd, 4096)
    if b"40 120" in at.seen: break
check("a new size reaches it", b"40 120" in at.seen, at.seen)
check("what is typed is echoed once", at.seen.count(b"size") == 1, at.seen)
at.type(b"end\n")
check("its exit code comes back", at.code() == 7)

at = Terminal(24, 80, "sh", "-c", 'trap "echo caught; exit 9" INT; echo ready; sleep 100 & wait $!')
at.until(b"ready"); at.type(b"\x03"); at.until(b"caught")
check("Ctrl-C is the guest's", at.code() == 9)

inner, outer = pty.openpty()
before = termios.tcgetattr(outer)
subprocess.run(["mvm", "instance", "exec", "-it", instance, "--", "true"], stdin=outer, stdout=outer, stderr=outer, check=True)
check("our terminal is as it was afterwards", termios.tcgetattr(outer) == before)

def plain(script):
    command = subprocess.Popen(["mvm", "instance", "exec", instance, "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    first = command.stdout.readline()
    return command, first

command, _ = plain('trap "exit 8" TERM; echo ready; sleep 100 & wait $!')
command.send_signal(signal.SIGTERM)
check("a signal to the command reaches the guest's", command.wait(30) == 8, command.returncode)

command, pid = plain("echo $$; exec sleep 1000")
command.kill(); command.wait()
end = time.monotonic() + 30
while subprocess.run(["mvm", "instance", "exec", instance, "--", "kill", "-0", pid.strip()], stderr=subprocess.DEVNULL).returncode == 0:
    if time.monotonic() > end: sys.exit("FAILED: the guest's command outlives who asked for it")
print("ok: nothing is left of a command whose caller was killed")
PY

say 'logs'
check 'the console is in the logs' test -n "$(mvm instance logs "$id" | grep -i listening)"
mvm tenant destroy acme --force
clean
