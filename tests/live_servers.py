"""Camera servers that tests start, kill and start again: MJPEG over HTTP in this process, RTSP in a child."""

import io
import subprocess
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket

import numpy as np
from PIL import Image

SYSTEM_PYTHON = "/usr/bin/python3"
"""The Python that Debian's python3-gi belongs to."""
RTSP_SERVER = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=red ! video/x-raw,format=I420,width=160,height=120,framerate=15/1 "
    "! jpegenc ! rtpjpegpay name=pay0 )"
)
server.get_mount_points().add_factory("/door", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""


def free_port():
    with closing(socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def rtsp_server(port):
    """GStreamer's RTSP server with a red picture at /door; killed at the end, as by a power cut."""
    with subprocess.Popen(
        [SYSTEM_PYTHON, "-c", RTSP_SERVER, str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            yield f"rtsp://127.0.0.1:{port}/door"
        finally:
            child.kill()


class _Mjpeg(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            while not self.server.stopping.is_set():
                picture = self.server.picture
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                self.wfile.write(head.encode() + picture + b"\r\n")
                time.sleep(0.04)
        except OSError:
            pass  # the client went away

    def log_message(self, *arguments):
        pass


@contextmanager
def mjpeg_server(port, colour):
    """A camera that sends pictures of one colour."""
    out = io.BytesIO()
    Image.fromarray(np.full((120, 160, 3), colour, np.uint8)).save(out, "JPEG", quality=95)
    server = ThreadingHTTPServer(("127.0.0.1", port), _Mjpeg)
    server.picture, server.stopping, server.daemon_threads = out.getvalue(), threading.Event(), True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}/stream"
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


def children_of_this_process(name):
    """Process ids of our children that run a program of this name."""
    import psutil

    return [child.pid for child in psutil.Process().children() if name in child.name()]


def wait_for(what, seconds=30.0):
    """Wait until `what()` is true."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise AssertionError("it never came")
        time.sleep(0.02)
