"""See a mention linked, see why, and see what negative-aware training changed.

    python spaces/entity-linking/app.py

shows the quickstart's linker, trained on first start; ANGEL_MODEL names another. README.md lists the settings.
"""

import importlib.metadata
import logging
import os
import sys
from pathlib import Path

# Said before any library is loaded: requests run side by side, each on one thread, and nobody is called home.
os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("ANGEL_THREADS", "1"))
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
sys.path.insert(0, str(Path(__file__).parent))

import examples  # noqa: E402
import quickstart  # noqa: E402
import torch  # noqa: E402
from interface import Demo  # noqa: E402
from look import CSS, theme  # noqa: E402
from markup import Page  # noqa: E402
from service import Service  # noqa: E402
from settings import MAX_UPLOAD_BYTES, Settings  # noqa: E402

logger = logging.getLogger("spaces.entity_linking")


def has_mcp() -> bool:
    """Whether what Gradio needs for MCP tools is installed; says how to get it if not."""
    try:
        version = importlib.metadata.version("mcp")
    except importlib.metadata.PackageNotFoundError:
        logger.info('MCP tools are off: they need an extra of Gradio. Install it with pip install "gradio[mcp]".')
        return False
    if int(version.partition(".")[0]) >= 2:
        logger.warning('MCP tools are off: mcp %s is installed, and Gradio needs "mcp<2".', version)
        return False
    return True


def main() -> None:
    """Load the models and serve the page."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = Settings.from_environment()
        name = settings.model
        if not name:
            quickstart.ensure()
            settings = quickstart.settings(settings)
            name = "quickstart linker"
        torch.set_num_threads(settings.threads)
        service = Service.load(settings)
        passages = examples.passages(settings.examples, service.linker.kb)
    except (quickstart.NoModelError, ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    demo = Demo(service, Page(service.linker.kb, settings.kb_url), passages, Path(name).name or name).blocks
    demo.launch(
        theme=theme(),
        css_paths=CSS,
        max_file_size=MAX_UPLOAD_BYTES,
        footer_links=["api"],
        ssr_mode=False,
        mcp_server=has_mcp(),
        show_error=False,
    )


if __name__ == "__main__":
    main()
