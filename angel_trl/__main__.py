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
    parser.add_argument("--num_beams", type=int, default=10, help="beams of the search (default: 10)")
    parser.add_argument(
        "--until_exact", action="store_true", help="widen the search until no likelier name can exist (or 1000 beams)"
    )
    parser.add_argument("--types", nargs="+", help="only concepts of these semantic types")
    options = parser.parse_args()
    from angel_trl.linked import parse_brackets
    from angel_trl.linker import EntityLinker

    try:
        parse_brackets(options.text)
    except ValueError as error:
        parser.error(str(error))
    linker = EntityLinker.from_pretrained(options.linker)
    restriction = linker.restrict(types=options.types) if options.types else None
    settings = {"top_k": options.top_k, "num_beams": options.num_beams, "until_exact": options.until_exact}
    for linked in linker.link(options.text, restriction=restriction, **settings):
        row = {"id": linked.id, "name": linked.name, **dataclasses.asdict(linked)}
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
