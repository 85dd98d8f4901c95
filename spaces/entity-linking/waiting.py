"""A page with a progress bar, served until there is a model to show; then it makes room for the Space."""

import contextlib
import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_HTML = Path(__file__).with_name("waiting.html")


@contextlib.contextmanager
def page() -> Iterator[Callable[[str, float], None]]:
    """Serve the page where the Space will be; yields what is to be told the stage and the part that is done, 0 to 1.

    Where the port is taken there is no page: Gradio looks for another one, and the terminal has a progress bar.
    """
    now = {"stage": "", "done": 0.0}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.path.partition("?")[0]
            if asked not in ("/", "/progress"):
                self.send_error(404)
                return
            body = _HTML.read_bytes() if asked == "/" else json.dumps(now).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8" if asked == "/" else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the terminal has the progress bar."""

    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    try:
        server = http.server.ThreadingHTTPServer((host, int(os.environ.get("GRADIO_SERVER_PORT", "7860"))), Handler)
    except (OSError, ValueError):
        yield lambda stage, done: None
        return
    print(f"The page will be at http://{host}:{server.server_port}; until then it shows how far the training is.")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield lambda stage, done: now.update(stage=stage, done=round(done, 3))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
