"""Try a linker from the shell: `python -m angel_trl PATH_OR_HUB_ID "text with a [mention]"`."""

import argparse
import dataclasses
import json
import sys


def main() -> None:
    """Print the links of one text as JSON, a line a mention."""
    parser = argparse.ArgumentParser(prog="python -m angel_trl", description="Link the [mentions] of a text.")
    parser.add_argument("linker", help="folder or Hub id of a linker")
    parser.add_argument("text", help="a passage with each mention in [square brackets]")
    parser.add_argument("--top_k", type=int, default=3, help="candidates of a mention (default: 3)")
    options = parser.parse_args()
    from angel_trl.linker import EntityLinker, parse_brackets

    try:
        parse_brackets(options.text)
    except ValueError as error:
        parser.error(str(error))
    for linked in EntityLinker.from_pretrained(options.linker).link(options.text, top_k=options.top_k):
        row = {"id": linked.id, "name": linked.name, **dataclasses.asdict(linked)}
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
