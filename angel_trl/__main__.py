"""Try a linker from the shell: `python -m angel_trl PATH_OR_HUB_ID "text with a [mention]"`."""

import argparse
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
        "--exact", action="store_true", help="widen the search until no likelier name can exist (or 1000 beams)"
    )
    parser.add_argument("--types", nargs="+", help="only concepts of these semantic types")
    parser.add_argument("--candidates", nargs="+", help="only these names or ids")
    parser.add_argument(
        "--nil_threshold",
        type=float,
        help="give no answer below this confidence (default: what the linker was calibrated to; 0 gives all)",
    )
    options = vars(parser.parse_args())
    name_or_path, text = options.pop("linker"), options.pop("text")
    from angel_trl.linked import parse_brackets
    from angel_trl.linker import EntityLinker

    try:
        parse_brackets(text)
        linked = EntityLinker.from_pretrained(name_or_path).link(text, **options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for one in linked:
        sys.stdout.write(json.dumps(one.as_dict(), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
