"""Random SQL with LLM calls in it: schemas small, shapes many. Every query has one right answer as a multiset."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

TEMPLATES = ["is {0} good?", "rate {0}", "{0} or {1}?"]


@dataclass(frozen=True)
class Table:
    """Columns by type, with their qualifier."""

    text: tuple[str, ...]
    number: tuple[str, ...]


T = Table(("t.p", "t.s"), ("t.id", "t.n"))
U = Table(("u.q",), ("u.id", "u.m"))


def both(a: Table, b: Table) -> Table:
    return Table(a.text + b.text, a.number + b.number)


@st.composite
def call(draw: st.DrawFn, table: Table, depth: int) -> str:
    template = draw(st.sampled_from(TEMPLATES))
    arguments = [draw(text(table, depth - 1)) for _ in range(template.count("{"))]
    return f"llm('{template}', {', '.join(arguments)}, choices => array('yes', 'no', 'maybe'))"


def _ask(argument: str) -> str:
    return f"llm('rate {{0}}', {argument}, choices => array('yes', 'no', 'maybe'))"


def text(table: Table, depth: int) -> st.SearchStrategy[str]:
    column = st.sampled_from(table.text)
    if depth <= 0:
        return st.one_of(column, column, column, st.sampled_from(["'a'", "CAST(NULL AS STRING)"]), _cast(table))
    # Calls come up more often than what surrounds them: a query without any shows nothing.
    return st.one_of(
        *[call(table, depth)] * 4,
        st.builds("concat({}, '-')".format, text(table, depth - 1)),
        st.builds("concat_ws('; ', {}, 'x', {})".format, text(table, depth - 1), text(table, depth - 1)),
        st.builds("format_string('<%s|%s>', {}, {})".format, text(table, depth - 1), text(table, depth - 1)),
        st.builds("coalesce({}, 'none')".format, text(table, depth - 1)),
        # Fails for a row whose branch is not taken.
        st.sampled_from([f"CASE WHEN {n} <> 0 THEN {_ask(f'CAST(12 / {n} AS STRING)')} END" for n in table.number]),
        st.builds("coalesce({}, {})".format, text(table, depth - 1), text(table, depth - 1)),
        st.builds(
            "CASE WHEN {} THEN {} ELSE {} END".format,
            predicate(table, depth - 1),
            text(table, depth - 1),
            text(table, depth - 1),
        ),
        st.builds("IF({}, {}, NULL)".format, predicate(table, depth - 1), text(table, depth - 1)),
    )


def _cast(table: Table) -> st.SearchStrategy[str]:
    return st.sampled_from([f"CAST({c} AS STRING)" for c in table.number])


def predicate(table: Table, depth: int) -> st.SearchStrategy[str]:
    cheap = st.one_of(
        st.builds("{} < {}".format, st.sampled_from(table.number), st.integers(0, 12)),
        st.builds("{} IS NULL".format, st.sampled_from(table.text + table.number)),
        st.builds("{} = 'a'".format, st.sampled_from(table.text)),
        st.builds("{} IN (1, 3, NULL)".format, st.sampled_from(table.number)),
    )
    if depth <= 0:
        return cheap
    return st.one_of(
        cheap,
        *[st.builds("{} = 'yes'".format, call(table, depth))] * 2,
        st.builds("({} AND {} = 'yes')".format, cheap, call(table, depth)),
        st.builds("({} OR {} = 'no')".format, cheap, call(table, depth)),
        st.builds("{} IS NOT NULL".format, call(table, depth)),
        st.builds("({} AND {})".format, predicate(table, depth - 1), predicate(table, depth - 1)),
        st.builds("({} OR {})".format, predicate(table, depth - 1), predicate(table, depth - 1)),
        st.builds("NOT ({})".format, predicate(table, depth - 1)),
    )


@st.composite
def projection(draw: st.DrawFn) -> str:
    items = [draw(text(T, 2)) for _ in range(draw(st.integers(1, 3)))]
    shared = draw(st.booleans())
    select = ", ".join(f"{e} AS c{i}" for i, e in enumerate([*items, *items[:1]] if shared else items))
    return f"SELECT t.id, {select} FROM t WHERE {draw(predicate(T, 2))}"


@st.composite
def subquery(draw: st.DrawFn) -> str:
    outer = draw(st.sampled_from(["c = 'yes'", "c IS NULL OR id < 4", "id < 5", "NOT (c = 'no') AND id > 1"]))
    columns = draw(st.sampled_from(["*", "id", "id, c"]))
    return f"SELECT {columns} FROM (SELECT t.id, {draw(call(T, 2))} AS c, {draw(text(T, 2))} AS d FROM t) WHERE {outer}"


@st.composite
def join(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["INNER", "LEFT", "RIGHT", "FULL", "LEFT SEMI", "LEFT ANTI", "CROSS"]))
    table = T if kind.startswith("LEFT ") else both(T, U)
    condition = draw(predicate(both(T, U), 2))
    on = "" if kind == "CROSS" else f"ON t.id = u.id AND {condition}" if draw(st.booleans()) else f"ON {condition}"
    where = draw(predicate(table, 1))
    return f"SELECT t.id AS i, {draw(text(table, 1))} AS c FROM t {kind} JOIN u {on} WHERE {where}"


@st.composite
def join_of_a_column(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["INNER", "LEFT", "FULL", "LEFT SEMI", "LEFT ANTI"]))
    columns = "x.id, x.c" if kind.startswith("LEFT ") else "x.id, x.c, u.m"
    extra = draw(st.sampled_from(["", " AND x.c = 'yes'", " AND u.m < 5"]))
    return f"SELECT {columns} FROM (SELECT t.id, {draw(call(T, 2))} AS c FROM t) x {kind} JOIN u ON x.id = u.id{extra}"


@st.composite
def aggregate(draw: st.DrawFn) -> str:
    key = draw(text(T, 2))
    having = draw(st.sampled_from(["", "HAVING count(*) > 1", "HAVING max(t.n) > 3 OR count(*) = 1"]))
    where = draw(predicate(T, 1))
    return (
        f"SELECT {key} AS k, count(*), max({draw(text(T, 1))}), count(DISTINCT {draw(text(T, 1))}) "
        f"FROM t WHERE {where} GROUP BY {key} {having}"
    )


@st.composite
def over_an_aggregate(draw: st.DrawFn) -> str:
    return (
        f"SELECT {draw(call(Table(('k',), ('n',)), 1))} AS c, k, n FROM "
        f"(SELECT t.p AS k, count(*) AS n FROM t WHERE {draw(predicate(T, 1))} GROUP BY t.p)"
    )


@st.composite
def window(draw: st.DrawFn) -> str:
    part, order = draw(text(T, 1)), draw(text(T, 1))
    return (
        f"SELECT t.id, row_number() OVER (PARTITION BY {part} ORDER BY {order}, t.id) AS r, "
        f"count({draw(call(T, 1))}) OVER (PARTITION BY {part}) AS c FROM t WHERE {draw(predicate(T, 1))}"
    )


@st.composite
def limited(draw: st.DrawFn) -> str:
    inner = f"SELECT t.id, {draw(text(T, 2))} AS c, t.n FROM t WHERE {draw(predicate(T, 1))}"
    order = draw(st.sampled_from(["id", "n DESC NULLS LAST, id", "c, id", "c DESC NULLS FIRST, id"]))
    offset = draw(st.sampled_from(["", " OFFSET 2"]))
    return f"SELECT * FROM ({inner}) ORDER BY {order} LIMIT {draw(st.integers(0, 5))}{offset}"


@st.composite
def set_operation(draw: st.DrawFn) -> str:
    branch = f"SELECT {draw(text(T, 2))} AS c FROM t WHERE {draw(predicate(T, 1))}"
    other = draw(st.one_of(st.just(branch), st.builds("SELECT {} AS c FROM u".format, text(U, 2))))
    word = draw(st.sampled_from(["UNION ALL", "UNION", "INTERSECT", "EXCEPT"]))
    return f"({branch}) {word} ({other})"


@st.composite
def with_subquery(draw: st.DrawFn) -> str:
    negated = draw(st.sampled_from(["", "NOT "]))
    inner = draw(
        st.sampled_from(
            [
                f"{negated}EXISTS (SELECT 1 FROM u WHERE u.id = t.id AND {{}})",
                f"{negated}EXISTS (SELECT 1 FROM u WHERE {{}})",
                f"t.id {negated}IN (SELECT u.id FROM u WHERE {{}})",
                "(SELECT max(u.m) FROM u WHERE u.id = t.id) > 1 OR {}",
            ]
        )
    )
    table = T if inner.startswith("(") else U if "IN (" in inner else both(T, U)
    condition = inner.format(draw(predicate(table, 1)))
    return f"SELECT t.id, {draw(text(T, 1))} AS c FROM t WHERE {condition}"


@st.composite
def common_table(draw: st.DrawFn) -> str:
    return (
        f"WITH x AS (SELECT t.id, t.n, {draw(call(T, 2))} AS c FROM t) "
        f"SELECT a.id, a.c, b.c AS d FROM x a JOIN x b ON a.c = b.c AND a.id < b.id WHERE a.n IS NOT NULL"
    )


@st.composite
def chain(draw: st.DrawFn) -> str:
    """A call over a call, with glue and filters between them."""
    first = f"SELECT t.id, t.n, t.p, {draw(call(T, 1))} AS a FROM t WHERE {draw(predicate(T, 0))}"
    inner = Table(("a", "p"), ("id", "n"))
    second = f"SELECT id, n, p, a, {draw(call(inner, 2))} AS b, {draw(text(inner, 1))} AS g FROM ({first})"
    third = f"SELECT id, a, b, {draw(text(Table(('a', 'b', 'g'), ('id', 'n')), 1))} AS c"
    wheres = [draw(st.sampled_from(["", " WHERE a = 'yes'", " WHERE a <> 'no' OR id < 3", " WHERE a IS NOT NULL"]))]
    wheres.append(draw(st.sampled_from(["", " WHERE b = 'no' AND a IN ('yes', 'maybe')", " WHERE length(b) > 2"])))
    return f"{third} FROM ({second}{wheres[0]}){wheres[1]}"


@st.composite
def filters(draw: st.DrawFn) -> str:
    """Conjuncts over several calls of one node."""
    columns = ", ".join(f"{draw(call(T, 1))} AS {name}" for name in "abc")
    terms = draw(
        st.lists(
            st.sampled_from(["a = 'yes'", "b <> 'no'", "c IN ('yes', 'maybe')", "(a = 'no' OR b = 'yes')", "id < 6"]),
            min_size=2, max_size=4,
        )
    )  # fmt: skip
    return (
        f"SELECT id, {draw(st.sampled_from(['a', 'b, c', 'a, b, c']))} FROM (SELECT t.id, {columns} FROM t) WHERE "
        + (" AND ".join(terms))
    )


@st.composite
def exploded(draw: st.DrawFn) -> str:
    outer = draw(st.sampled_from(["", "OUTER "]))
    array = draw(st.sampled_from(["array(t.id, t.n)", "IF(t.id < 3, array(t.n), array())", "array(1, 2, 3)"]))
    return f"SELECT t.id, e, {draw(text(T, 1))} AS c FROM t LATERAL VIEW {outer}explode({array}) v AS e"


@st.composite
def shared(draw: st.DrawFn) -> str:
    """One common table in several branches that prune and filter it in different ways."""
    ends = st.sampled_from(["a = 'yes'", "a <> 'no'", "n > 2", "id < 5 OR a = 'maybe'", "b IS NOT NULL"])
    branches = [f"SELECT id, {draw(st.sampled_from(['a', 'b']))} AS v FROM x WHERE {draw(ends)}" for _ in range(3)]
    common = f"SELECT t.id, t.n, {draw(call(T, 1))} AS a, {draw(text(T, 1))} AS b FROM t"
    return f"WITH x AS ({common}) " + " UNION ALL ".join(branches)


queries: st.SearchStrategy[str] = st.one_of(
    projection(),
    subquery(),
    join(),
    join_of_a_column(),
    aggregate(),
    over_an_aggregate(),
    window(),
    limited(),
    set_operation(),
    with_subquery(),
    common_table(),
    chain(),
    filters(),
    exploded(),
    shared(),
)
