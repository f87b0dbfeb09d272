"""A small S3-compatible storage: path style, objects in a directory, AWS Signature Version 4 checked on every request.

    s3.py PORT DIRECTORY REGION      keys by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY

The bucket is a directory below DIRECTORY that is there. While DIRECTORY has a file `hold`, of objects only the first half
comes. What is not signed by the key, or has another body than was
signed, is refused with 403; so is a time that is a quarter of an hour off.
"""
import calendar, hashlib, hmac, http.server, os, re, sys, time

PORT, ROOT, REGION = int(sys.argv[1]), sys.argv[2], sys.argv[3]
KEY, SECRET = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
FORM = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, *"
                  r"SignedHeaders=([a-z0-9;-]+), *Signature=([0-9a-f]{64})$")


def mac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, form, *words):
        sys.stderr.write(f"{self.command} {self.path} {words[1] if len(words) > 1 else ''}\n")

    def is_signed(self, digest):
        found = FORM.match(self.headers.get("Authorization", ""))
        stamp = self.headers.get("X-Amz-Date", "")
        if not found or not re.match(r"\d{8}T\d{6}Z$", stamp) or "host" not in found[4].split(";"):
            return False
        who, date, region, names, signature = found.groups()
        away = abs(calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ")) - time.time())
        lines = "".join(f"{name}:{self.headers.get(name, '').strip()}\n" for name in names.split(";"))
        canonical = "\n".join([self.command, self.path, "", lines, names, digest])
        text = "\n".join(["AWS4-HMAC-SHA256", stamp, f"{date}/{region}/s3/aws4_request",
                          hashlib.sha256(canonical.encode()).hexdigest()])
        key = ("AWS4" + SECRET).encode()
        for part in [date, region, "s3", "aws4_request"]:
            key = mac(key, part)
        is_own = (who, region, date) == (KEY, REGION, stamp[:8]) and away < 900
        named = self.headers.get("X-Amz-Content-SHA256") == digest
        return is_own and named and hmac.compare_digest(mac(key, text).hex(), signature)

    def answer(self, status, body=b"", length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if status == 206:
            self.send_header("Content-Range", self.range)
        self.end_headers()
        if self.command != "HEAD":
            half = len(body) // 2 if "/objects/" in self.path else 0
            self.wfile.write(body[:half])
            while half and os.path.exists(os.path.join(ROOT, "hold")):
                time.sleep(0.05)
            self.wfile.write(body[half:])

    def place(self):
        parts = self.path.lstrip("/").split("/")
        if any(part in ("", ".", "..") or "?" in part for part in parts):
            return None
        return os.path.join(ROOT, *parts) if os.path.isdir(os.path.join(ROOT, parts[0])) else None

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.is_signed(hashlib.sha256(body).hexdigest()):
            return self.answer(403)
        place = self.place()
        if place is None:
            return self.answer(404)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place + ".part", "wb") as file:
            file.write(body)
        os.replace(place + ".part", place)
        self.answer(200)

    def do_GET(self):
        if not self.is_signed(hashlib.sha256(b"").hexdigest()):
            return self.answer(403)
        place = self.place()
        if place is None or not os.path.isfile(place):
            return self.answer(404)
        size = os.path.getsize(place)
        start = re.match(r"bytes=(\d+)-$", self.headers.get("Range", ""))
        start = int(start[1]) if start else None
        if start is not None and start >= size:
            return self.answer(416)
        with open(place, "rb") as file:
            file.seek(start or 0)
            body = b"" if self.command == "HEAD" else file.read()
        self.range = f"bytes {start}-{size - 1}/{size}"
        self.answer(200 if start is None else 206, body, size - (start or 0))

    do_HEAD = do_GET


http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
