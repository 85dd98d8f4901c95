"""See a mention linked, see why, and see what negative-aware training changed.

    python spaces/entity-linking/app.py

shows the quickstart's linker, trained on first start; ANGEL_MODEL names another. README.md lists the settings.
"""

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

# Said before any library is loaded: requests run side by side, each on one thread, and nobody is called home.
os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("ANGEL_THREADS", "1"))
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
sys.path.insert(0, str(Path(__file__).parent))

import examples  # noqa: E402
import quickstart  # noqa: E402
import torch  # noqa: E402
import waiting  # noqa: E402
from endpoints import mcp_settings  # noqa: E402
from interface import Demo  # noqa: E402
from look import CSS, theme  # noqa: E402
from markup import Page  # noqa: E402
from service import Service  # noqa: E402
from settings import MAX_UPLOAD_BYTES, Settings  # noqa: E402


def main() -> None:
    """Load the models and serve the page."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for chatty in ("httpx", "mcp"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Ends as Ctrl+C does: what was begun is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
    try:
        settings = Settings.from_environment()
        name = settings.model
        with contextlib.ExitStack() as until_then:
            if not name:
                if not quickstart.is_complete():
                    quickstart.ensure(tell=until_then.enter_context(waiting.page()))
                settings = quickstart.settings(settings)
                name = "quickstart linker"
            torch.set_num_threads(settings.threads)
            service = Service.load(settings)
            passages = examples.passages(settings.examples, service.linker)
            demo = Demo(service, Page(service.linker.kb, settings.kb_url), passages, Path(name).name or name).blocks
    except (quickstart.NoModelError, ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("Stopped.") from None
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    demo.launch(
        theme=theme(),
        css_paths=CSS,
        max_file_size=MAX_UPLOAD_BYTES,
        footer_links=["api"],
        ssr_mode=False,
        show_error=False,
        **mcp_settings(),
    )


if __name__ == "__main__":
    main()
