"""A resolver for tests: every name that ends in .test is the address given, by UDP and TCP.

resolver.py ADDRESS ANSWER
"""
import socket
import socketserver
import sys
import threading

answer = socket.inet_aton(sys.argv[2])


def reply(query):
    end = query.index(b"\0", 12) + 5
    question = query[12:end]
    wanted = question[-4:-2] == b"\0\1" and question[:-5].endswith(b"\x04test")
    head = query[:2] + (b"\x81\x80" if question[-5:-4] == b"\0" and (wanted or question[-4:-2] != b"\0\1") else b"\x81\x83")
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\x04" + answer if wanted else b""
    return head + b"\0\1" + (b"\0\1" if wanted else b"\0\0") + b"\0\0\0\0" + question + record


class Udp(socketserver.BaseRequestHandler):
    def handle(self):
        query, sock = self.request
        if len(query) > 12:
            sock.sendto(reply(query), self.client_address)


class Tcp(socketserver.BaseRequestHandler):
    def handle(self):
        length = int.from_bytes(self.request.recv(2), "big")
        if length == 0:  # somebody looked whether the port is open
            return
        text = reply(self.request.recv(length))
        self.request.sendall(len(text).to_bytes(2, "big") + text)


socketserver.ThreadingTCPServer.allow_reuse_address = True
udp = socketserver.ThreadingUDPServer((sys.argv[1], 53), Udp)
tcp = socketserver.ThreadingTCPServer((sys.argv[1], 53), Tcp)
threading.Thread(target=udp.serve_forever, daemon=True).start()
tcp.serve_forever()
