"""TLS for servers of tests: a certificate of their own, and servers that break the connection only once the handshake is over."""

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Literal

Fault = Literal["wants a certificate", "no TLS as the answer", "no TLS as the body"]
FAULTS: tuple[Fault, ...] = ("wants a certificate", "no TLS as the answer", "no TLS as the body")
NO_RECORD = b"\x17\x03\x03\x00\x20" + bytes(32)  # looks like a record of TLS, and was never sealed


def make_certificate(folder: Path, *names: str) -> Path:
    """A key and its own certificate, in one file. `names`: `DNS:photos.example`, `IP:127.0.0.1`. Clients trust it by SSL_CERT_FILE."""
    path, public = folder / "certificate.pem", folder / "public.pem"
    kind = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=photos.example"
    subject = ["-addext", f"subjectAltName={','.join(names)}"]
    subprocess.run(["openssl", *kind.split(), *subject, "-keyout", str(path), "-out", str(public)], check=True, capture_output=True)
    path.write_text(path.read_text() + public.read_text())
    return path


def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@contextmanager
def breaking_server(certificate: Path, fault: Fault) -> Iterator[int]:
    """The port of a server whose every connection ends so. It has threads of its own, so that it serves clients of any kind."""
    tls = server_tls(certificate)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3  # the client hears of what is wrong with its handshake when it reads the answer
    if fault == "wants a certificate":
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=_accept, args=(listener, tls, fault), daemon=True).start()
        yield listener.getsockname()[1]


def _accept(listener: socket.socket, tls: ssl.SSLContext, fault: Fault) -> None:
    with suppress(OSError):  # the listener is closed
        while True:
            connection = tls.wrap_socket(listener.accept()[0], server_side=True, do_handshake_on_connect=False)
            Thread(target=_break, args=(connection, fault), daemon=True).start()


def _break(connection: ssl.SSLSocket, fault: Fault) -> None:
    connection.settimeout(10)
    with connection, suppress(OSError):
        with suppress(ssl.SSLError):
            connection.do_handshake()
            connection.recv(65536)
            if fault == "no TLS as the body":
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
            socket.socket.send(connection, NO_RECORD)
        socket.socket.shutdown(connection, socket.SHUT_WR)
        while socket.socket.recv(connection, 65536):  # what is closed unread is reset, and the client may never see what was sent
            pass
