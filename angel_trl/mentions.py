"""The mention dataset: one row a gold mention, the form every corpus reader produces and training consumes."""

from datasets import Dataset, Features, List, Value

__all__ = ["MENTION_FEATURES", "validate_mentions"]

MENTION_FEATURES = Features(
    {
        "id": Value("string"),
        "document_id": Value("string"),
        "text": Value("string"),
        "start": Value("int32"),
        "end": Value("int32"),
        "mention": Value("string"),
        "types": List(Value("string")),
        "concept_ids": List(List(Value("string"))),
        "split": Value("string"),
    }
)
"""The columns of a mention dataset.

- `id`: unique in the dataset, `"{document_id}:{start}-{end}"`, followed by `#2`, `#3`, ... if repeated.
- `document_id`: unique to a document of the corpus.
- `text`: the whole document (title, a space, abstract).
- `start`, `end`: character offsets into `text`, the end exclusive.
- `mention`: `text[start:end]`.
- `types`: the corpus's own type labels.
- `concept_ids`: the gold ids. The outer list holds the parts of a composite mention, ALL of which are meant; an inner
  list holds alternatives, ANY of which is right. `[]` means that the mention has no concept.
- `split`: `"train"`, `"dev"` or `"test"`.
"""


def validate_mentions(dataset: Dataset) -> None:
    """Check that a dataset is a mention dataset; extra columns are allowed.

    Args:
        dataset: Columns as in [`MENTION_FEATURES`].

    Raises:
        ValueError: If a column is missing or holds a null, an id is repeated, the offsets do not lie in the text,
            `text[start:end]` is not the mention, or `concept_ids` is not a list of non-empty lists of non-empty
            strings. The message names the row and the value.
    """
    missing = [name for name in MENTION_FEATURES if name not in dataset.column_names]
    if missing:
        raise ValueError(
            f"a mention dataset needs the columns {list(MENTION_FEATURES)}; missing: {missing}, "
            f"present: {dataset.column_names}"
        )
    first_row: dict[str, int] = {}
    for number, row in enumerate(dataset.select_columns(list(MENTION_FEATURES))):
        where = f"row {number} (id {row['id']!r})"
        empty = [name for name in MENTION_FEATURES if row[name] is None]
        if empty:
            raise ValueError(f"{where}: null in {empty}; every column needs a value, [] where a list is empty")
        first = first_row.setdefault(row["id"], number)
        if first != number:
            raise ValueError(f"{where}: the id stands in row {first} already; make ids unique")
        start, end, length = row["start"], row["end"], len(row["text"])
        if not 0 <= start < end <= length:
            raise ValueError(
                f"{where}: start {start} and end {end} are not a passage of its text of {length} characters; "
                "they must be character offsets with 0 <= start < end <= len(text)"
            )
        passage = row["text"][start:end]
        if passage != row["mention"]:
            raise ValueError(
                f"{where}: mention {row['mention']!r} is not text[{start}:{end}], which is {passage!r}; "
                "offsets must count characters of the text column"
            )
        for part in row["concept_ids"]:
            if not isinstance(part, list) or not part or not all(isinstance(i, str) and i for i in part):
                raise ValueError(
                    f"{where}: concept_ids {row['concept_ids']!r} must be a list (all of) of non-empty lists (any of) "
                    "of ids, for instance [['D003693']]"
                )
