"""Read and search the log, by pages, each of one state of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, assert_never

from deid_hooks.backends import (
    AccessRow,
    Block,
    BlocksPage,
    Deadline,
    Entry,
    LogUnavailable,
    Page,
    Query,
    Receipt,
    Record,
    Tombstone,
    UploadEvent,
    count_fitting,
    make_erased,
    make_readable,
)
from deid_hooks.backends.tables.columns import (
    BEGINNING,
    ENTRY_TEXTS,
    NEW_IN_VERSION_3,
    SHORT_LIMIT,
    TABLES,
)
from deid_hooks.backends.tables.conditions import (
    And,
    Compare,
    InJson,
    InTable,
    Node,
    Or,
    Renderer,
    is_indexed,
    translate,
)
from deid_hooks.backends.tables.migrations import VERSION, refuse_other
from deid_hooks.backends.tables.rows import RECORD_TABLES
from deid_hooks_sql.database import Rows, make_not_allowed
from deid_hooks_sql.links import Link, reading, snapshot
from deid_hooks_sql.schema import (
    SELECT_ENTRY,
    decode_texts,
    fetch_entries,
    make_entries,
    read_record,
    select_entries,
    shorten,
)

R = TypeVar("R", UploadEvent, AccessRow, Block, Tombstone)

_RECORDS_A_PAGE = 200
_BYTES_A_PAGE = 4_000_000
_ROWS_A_PAGE = 1_000
_KINDS = tuple(RECORD_TABLES.values())

# The next places in the order of the log, the kind of record that each one is, its size and its
# seal; kind -1 where the seal alone is left.
_ERASED = -1
_TABLES = (("deid_log_chain", "0"), ("deid_log", "size"), *((table, "0") for table in _KINDS))
_FOUND = " UNION ALL ".join(
    f"(SELECT seq, {kind} AS kind, {size} AS size FROM {table} WHERE seq > %s"
    f" ORDER BY seq LIMIT {_RECORDS_A_PAGE})"
    for kind, (table, size) in enumerate(_TABLES, _ERASED)
)
_PLACES = (
    "SELECT place.seq, place.kind, place.size, chain.seal FROM"
    f" (SELECT seq, max(kind) AS kind, max(size) AS size FROM ({_FOUND}) found"
    f" GROUP BY seq ORDER BY seq LIMIT {_RECORDS_A_PAGE}) place"
    " LEFT JOIN deid_log_chain chain ON chain.seq = place.seq AND chain.seq > %s ORDER BY place.seq"
)


def select_rows(table: str, version: int = VERSION) -> str:
    """Return SQL that reads rows as ``read_record`` takes them; a condition follows.

    Of a log of this version: empty texts stand for columns that it has not.
    """
    names = (
        f"'' AS {name}" if version < VERSION and (table, name) in NEW_IN_VERSION_3 else name
        for name in TABLES[table].server_names
    )
    return f"SELECT {', '.join(names)} FROM {table}"


def _read_sealed(
    link: Link, kind: type[R], after: int, more: str = "", *values: Any
) -> tuple[list[tuple[R, str]], int]:
    """Return some records of a kind after the cursor with their seals, and the next cursor."""
    table = RECORD_TABLES[kind]
    select = select_rows(table, link.version)
    page = f"{select} WHERE seq > %s {more} ORDER BY seq LIMIT {_ROWS_A_PAGE}"
    # Without the lower bound PostgreSQL may read all seals from the first on.
    rows = link.rows(
        f"SELECT page.*, seal FROM ({page}) page LEFT JOIN deid_log_chain chain"
        " ON chain.seq = page.seq AND chain.seq > %s ORDER BY page.seq",
        after or BEGINNING,
        *values,
        after or BEGINNING,
    )
    return _pair_sealed(kind, rows), rows[-1][0] if rows else after


def _pair_sealed(kind: type[R], rows: Rows) -> list[tuple[R, str]]:
    """Return the records of rows that end with a seal, and the seals."""
    found = ((read_record(RECORD_TABLES[kind], row[:-1]), row[-1] or "") for row in rows)
    return [(record, seal) for record, seal in found if isinstance(record, kind)]


def read_page(link: Link, after: int) -> Page:
    """Return some records after the cursor, all kinds in one order; at least one if there is."""
    _refuse_blind(link)
    with reading(link):
        places, last = read_places(link, after or BEGINNING, link.version)
    return Page(tuple(r for _, r, _ in places), tuple(seal for *_, seal in places), last)


def read_places(
    link: Link, after: int, version: int = VERSION
) -> tuple[list[tuple[int, Record, str]], int]:
    """Return some places after the cursor, with the record and its seal at each; the next cursor.

    Within a transaction that sees one state of the log.
    """
    places = link.rows(_PLACES, *[after] * (len(_TABLES) + 1))
    places = places[: count_fitting((size for _, _, size, _ in places), _BYTES_A_PAGE)]
    found: dict[int, Record] = {}
    by_kind: defaultdict[int, list[int]] = defaultdict(list)
    for seq, kind, _, seal in places:
        if kind != _ERASED:
            by_kind[kind].append(seq)
        elif erased := make_erased(seal):
            found[seq] = erased
    found |= fetch_entries(link, by_kind.pop(0, []))
    small = [
        (
            f"{select_rows(_KINDS[kind - 1], version)} WHERE seq {link.database.any_of}",
            (seqs,),
        )
        for kind, seqs in by_kind.items()
    ]
    for kind, rows in zip(by_kind, link.fetch(small) if small else (), strict=True):
        found |= {row[0]: read_record(_KINDS[kind - 1], row) for row in rows}
    sealed = [(seq, found[seq], seal or "") for seq, _, _, seal in places if seq in found]
    return sealed, places[-1][0] if places else after


def resolve(link: Link, log_id: str) -> Entry | Receipt | Tombstone | None:
    """Return the entry or tombstone under this id; a receipt to who may not read the entry."""
    if not link.may_read:
        return _read_receipt(link, log_id)
    seq = "(SELECT seq FROM deid_log WHERE id = %s)"
    stones_at = f"{select_rows('deid_log_tombstone', link.version)} WHERE id = %s"
    stone = (stones_at, (shorten(log_id),))
    logs, *parts, stones = snapshot(link, [*select_entries(f"= {seq}", shorten(log_id)), stone])
    entries = make_entries(logs, parts)
    for record in (*entries.values(), *(read_record("deid_log_tombstone", row) for row in stones)):
        if isinstance(record, Entry | Tombstone) and record.log_id == log_id:
            return record
    return None


def read_entries(link: Link, log_ids: Sequence[str]) -> tuple[list[tuple[Entry, str]], int]:
    """Return entries of some of these ids in that order, and how many of the ids that took.

    Each with its seal.
    """
    _refuse_blind(link)
    with reading(link):
        known = link.rows(
            "SELECT id, seq, size, seal FROM deid_log LEFT JOIN deid_log_chain USING (seq)"
            f" WHERE id {link.database.any_of}",
            [shorten(log_id) for log_id in log_ids],
        )
        places = {log_id: (seq, size) for log_id, seq, size, _ in known}
        found, looked_at = _read_some(link, [places.get(log_id) for log_id in log_ids])
    seals = {seq: seal or "" for _, seq, _, seal in known}
    return [(entry, seals[seq]) for seq, entry in found], looked_at


def read_entries_at(link: Link, seqs: Sequence[int]) -> tuple[list[Entry], int]:
    """Return entries at some of these places, and how many of the places that took."""
    _refuse_blind(link)
    with reading(link):
        known = link.rows(
            f"SELECT seq, size FROM deid_log WHERE seq {link.database.any_of}",
            list(seqs),
        )
        places = {seq: (seq, size) for seq, size in known}
        found, looked_at = _read_some(link, [places.get(seq) for seq in seqs])
    return [entry for _, entry in found], looked_at


def find_digest(link: Link, digest: str) -> str | None:
    """Return the id of the oldest entry with this digest."""
    sql = "SELECT id FROM deid_log WHERE digest = %s ORDER BY seq LIMIT 50"
    for (log_id,) in link.rows(sql, shorten(digest)):
        if _is_whole(digest) or _is_exactly(link, log_id, digest=digest):
            return str(log_id)
    return None


def read_events(
    link: Link, after: int, log_ids: Sequence[str] | None
) -> tuple[list[tuple[UploadEvent, str]], int]:
    """Return some upload events with their seals after the cursor, and the next cursor.

    Of these entries, or of all.
    """
    some = "" if log_ids is None else f"AND log_id {link.database.any_of}"
    values = () if log_ids is None else ([*map(shorten, log_ids)],)
    return _read_sealed(link, UploadEvent, after, some, *values)


def find_tombstone(link: Link, log_id: str) -> tuple[Tombstone, str] | None:
    """Return the tombstone under this id, and its seal."""
    _refuse_blind(link)
    found, _ = _read_sealed(link, Tombstone, 0, "AND id = %s", shorten(log_id))
    return next((pair for pair in found if pair[0].log_id == log_id), None)


def read_trail(link: Link, after: int) -> tuple[list[tuple[AccessRow, str]], int]:
    """Return some access rows after the cursor with their seals, and the next cursor."""
    _refuse_blind(link)
    return _read_sealed(link, AccessRow, after)


def read_blocks(link: Link, patients: Collection[str]) -> list[Block]:
    """Return the blocks of these patients, oldest first."""
    rows = link.rows(
        f"{select_rows('deid_log_block')} WHERE patient {link.database.any_of} ORDER BY seq",
        [shorten(patient) for patient in patients],
    )
    blocks = [read_record("deid_log_block", row) for row in rows]
    return [b for b in blocks if isinstance(b, Block) and b.patient in patients]


def read_blocks_after(link: Link, after: int) -> BlocksPage:
    """Return all blocks after the cursor with their seals, and the last seal of the log."""
    refuse_other(link.version, link.database.where)
    names = ", ".join(TABLES["deid_log_block"].server_names)
    # One statement sees one state. It gives a row of the last seal where there is no block.
    rows = link.rows(
        f"SELECT {names}, seal, (SELECT seal FROM deid_log_chain ORDER BY seq DESC LIMIT 1) AS head"
        " FROM (SELECT 1 AS one) asked LEFT JOIN deid_log_block ON seq > %s"
        " LEFT JOIN deid_log_chain USING (seq) ORDER BY seq",
        after,
    )
    head = rows[0][-1] or ""
    blocks = [row[:-1] for row in rows if row[0] is not None]
    last = blocks[-1][0] if blocks else after
    return BlocksPage(tuple(_pair_sealed(Block, blocks)), last, head)


def find_label(link: Link, project: str, patient: str) -> str | None:
    """Return the de-identified PatientID of the oldest entry of this patient in this project."""
    rows = link.rows(
        "SELECT id, deid_PatientID FROM deid_log WHERE patients = %s AND project = %s"
        " AND deid_PatientID <> '' ORDER BY seq LIMIT 50",
        *map(shorten, (patient, project)),
    )
    asked = {"project": project, "patients": patient}
    for log_id, label in rows:
        if all(map(_is_whole, asked.values())) or _is_exactly(link, log_id, **asked):
            return str(label if _is_whole(label) else _read_texts(link, log_id)["deid_PatientID"])
    return None


def _is_whole(shown: str) -> bool:
    """Return whether a column that shows this text can hold no other one."""
    return len(shown) < SHORT_LIMIT and "\ufffd" not in shown and shorten(shown) == shown


def _is_exactly(link: Link, log_id: str, **wanted: str) -> bool:
    """Return whether an entry has these values, where its columns can't tell."""
    texts = _read_texts(link, log_id)
    return all(texts[column] == value for column, value in wanted.items())


def _read_texts(link: Link, log_id: str) -> dict[str, Any]:
    _refuse_blind(link)
    [(_, *shown, exact)] = link.rows(f"{SELECT_ENTRY} WHERE id = %s", log_id)
    return dict(zip(ENTRY_TEXTS, decode_texts(shown, exact), strict=True))


def _refuse_blind(link: Link) -> None:
    if not link.may_read:
        raise make_not_allowed(link.database.where)


def _read_receipt(link: Link, log_id: str) -> Receipt | Tombstone | None:
    columns = 'project, digest, "key", patients, deid_uids, whole'
    rows = link.rows(f"SELECT {columns} FROM deid_log_receipt(%s)", log_id)
    for project, digest, key, patients, deid_uids, whole in rows:
        if not whole:
            raise LogUnavailable(
                f"the entry {log_id} is not what was written: it was altered in the store",
                "restore the log from a backup",
            )
        return Receipt(log_id, project, tuple(deid_uids), digest, key, tuple(patients.split()))
    stones_at = f"{select_rows('deid_log_tombstone', link.version)} WHERE id = %s"
    stones = link.rows(stones_at, shorten(log_id))
    found = [read_record("deid_log_tombstone", row) for row in stones]
    return next((stone for stone in found if isinstance(stone, Tombstone)), None)


def _read_some(
    link: Link, places: Sequence[tuple[int, int] | None]
) -> tuple[list[tuple[int, Entry]], int]:
    looked_at = count_fitting((0 if p is None else p[1] for p in places), _BYTES_A_PAGE)
    seqs = [place[0] for place in places[:looked_at] if place is not None]
    found = fetch_entries(link, seqs)
    return [(seq, found[seq]) for seq in seqs], looked_at


T = TypeVar("T")

_MOST_BY_INDEX = 10_000
_SECONDS_BY_INDEX = 2.0
_ENTRIES_A_SCAN = 1_000


class ServerRenderer(Renderer):
    """Renders conditions for a server. What an ``odd`` entry matches only the reference tells."""

    mark = "%s"

    def __init__(self, position: str) -> None:
        self.position = position

    def quote(self, column: str) -> str:
        return column

    def encode(self, text: str) -> str:
        return make_readable(text)

    def render_lookup(self, table: str, compare: str) -> str:
        return f"EXISTS (SELECT 1 FROM {table} part WHERE part.entry = deid_log.seq AND {compare})"

    def render_set(self, node: Node) -> tuple[str, list[Any]]:
        """Return a SELECT of the places of the entries that meet a condition.

        Those that an entry must be in are found one by one, each by its index, and then put
        together: servers don't use several indexes for alternatives in one condition.
        """
        match node:
            case Or() if node.parts and is_indexed(node):
                sets = list(map(self.render_set, node.parts))
                return " UNION ".join(s for s, _ in sets), [v for _, vs in sets for v in vs]
            case And():
                where, values = self._join(" AND ", map(self._render_member, node.parts))
            case InTable():
                where, values = self._join(" AND ", map(self.render_compare, node.compares))
                return f"SELECT entry AS seq FROM {node.table} WHERE {where}", values
            case Or() | Compare() | InJson():
                where, values = self.render(node)
            case _:
                assert_never(node)
        return f"SELECT seq FROM deid_log WHERE {where}", values

    def _render_member(self, node: Node) -> tuple[str, list[Any]]:
        if isinstance(node, Compare) or not is_indexed(node):
            return self.render(node)
        # A derived table, not a bare UNION, which MySQL would run anew for every row.
        sql, values = self.render_set(node)
        return f"seq IN (SELECT seq FROM ({sql}) s)", values


class RunPage(Protocol):
    """Runs a job on a link, within a deadline of its own."""

    def __call__(self, job: Callable[[Link], T]) -> T: ...


def search(query: Query, run: RunPage, deadline: Deadline) -> Iterator[str]:
    """Yield the ids of the entries that match, oldest first, in a bounded amount of memory."""
    for seqs in _find_candidates(query, run, deadline):
        while seqs:
            entries, looked_at = run(partial(read_entries_at, seqs=seqs))
            yield from (entry.log_id for entry in entries if query.matches(entry))
            seqs = seqs[looked_at:]


def _find_candidates(query: Query, run: RunPage, deadline: Deadline) -> Iterator[Sequence[int]]:
    """Yield places in the order of the log: all at once by an index, or else scan by scan."""
    try:
        found = run(partial(_find_by_index, query=query, seconds=deadline.seconds / 2))
    except LogUnavailable:  # if that is no matter of time, the scan will fail too
        found = None
    if found is not None:
        yield found
        return
    after: int | None = 0
    while after is not None:
        found, after = run(partial(_find_by_scan, query=query, after=after))
        yield found


def _find_by_index(link: Link, query: Query, seconds: float) -> list[int] | None:
    """Return None if no index helps: if none fits, or there is too much to be read from it."""
    node = translate(query)
    if not is_indexed(node):
        return None
    link.bound(min(_SECONDS_BY_INDEX, seconds))
    sql, values = ServerRenderer(link.database.position).render_set(node)
    rows = link.rows(
        f"SELECT seq FROM ({sql} UNION SELECT seq FROM deid_log WHERE odd = 1) found"
        f" LIMIT {_MOST_BY_INDEX + 1}",
        *values,
    )
    return None if len(rows) > _MOST_BY_INDEX else sorted(seq for (seq,) in rows)


def _find_by_scan(link: Link, query: Query, after: int) -> tuple[list[int], int | None]:
    """Return candidates among the next entries, and where to go on; None at the end."""
    sql, values = ServerRenderer(link.database.position).render(translate(query))
    [(last,)] = link.rows(
        "SELECT max(seq) FROM"
        f" (SELECT seq FROM deid_log WHERE seq > %s ORDER BY seq LIMIT {_ENTRIES_A_SCAN}) page",
        after,
    )
    if last is None:
        return [], None
    rows = link.rows(
        f"SELECT seq FROM deid_log WHERE seq > %s AND seq <= %s AND ({sql} OR odd = 1)"
        " ORDER BY seq",
        after,
        last,
        *values,
    )
    return [seq for (seq,) in rows], last
