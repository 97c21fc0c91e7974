"""Values out of a text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from spark_helium.functions._arguments import CallOptions, call, column, constant, schema_text

if TYPE_CHECKING:
    from pyspark.sql._typing import ColumnOrName


def ai_extract(
    content: ColumnOrName,
    schema: str | DataType | Mapping[str, Any] | type | Iterable[str],
    *,
    instructions: str | None = None,
    **options: Unpack[CallOptions],
) -> Column:
    """The fields of a schema, read from the content. NULL content gives NULL and no call.

    Parameters
    ----------
    content
        Column or column name; a :func:`prompt`, too.
    schema
        A DDL string; a ``StructType``; a JSON schema of an object, as text or a dict, or a dict from names to JSON
        schemas; a Pydantic model class; or names, whose values are strings: a list, or a dict from them to questions.
        A field is NULL where the text does not give it, unless the schema says otherwise. Texts, arrays and numbers
        have bounds unless a JSON schema gives its own, see ``DESCRIBE FUNCTION EXTENDED ai_extract``.
    instructions
        A text that says more about the fields.
    **options
        See :class:`CallOptions`. ``max_tokens`` is by default what the longest answer can need.

    Returns
    -------
    Column
        Structs.

    Raises
    ------
    ArgumentError
        ``schema`` is none of these, or an option is unknown or no constant.
    pyspark.errors.AnalysisException
        When the column is used: the schema cannot be read, or has no SQL type, ...

    Examples
    --------
    >>> from spark_helium.functions import ai_extract
    >>> people = ai_extract("body", ["person", "location"])
    >>> stars = ai_extract("body", "stars INT COMMENT 'from 1 to 5', is_angry BOOLEAN NOT NULL")
    """
    function = "ai_extract"
    if isinstance(schema, Iterable) and not isinstance(schema, (str, Mapping, DataType, type, Column)):
        wanted = constant(function, "schema", schema)
    else:
        wanted = F.lit(schema_text(function, "schema", schema))
    return call(function, [column(function, "content", content), wanted], {"instructions": instructions}, options)
