"""What the contract said of a source's batches, oldest first, and the rows it named as examples."""

from dataclasses import replace
from datetime import datetime

from raysaas.ingest.findings import PROPERTY, Broken, Findings
from raysaas.ingest.planning import Target
from raysaas.stores.tables import Tables


def history(tables: Tables, target: Target) -> list[Findings]:
    """Every batch that was committed or refused, and every replay that took rows, by time."""
    found = []
    for table in (target.raw, target.quarantine):
        for snapshot in tables.history(table):
            if PROPERTY in snapshot["properties"]:
                found.append(Findings.from_json(snapshot["properties"][PROPERTY]))
    return sorted(found, key=lambda one: datetime.fromisoformat(one.at))


def with_values(found: Findings, tables: Tables, target: Target) -> Findings:
    """``found`` with the example values of its refused rows, as quarantine has them."""
    missing = [one for one in found.rules if one.value is None]
    if not missing or tables.current(target.quarantine) is None:
        return found
    numbers = ", ".join(str(number) for number in sorted({one.row_number for one in missing}))
    names = ["source_file", "row_number", "rule", "column", "value"]
    rows = tables.read(target.quarantine, columns=names, where=f"row_number in ({numbers})").to_pylist()
    values = {(r["source_file"], r["row_number"], r["rule"], r["column"]): r["value"] for r in rows}
    return replace(found, rules=tuple(_with_value(one, values) for one in found.rules))


def _with_value(one: Broken, values: dict[tuple[str, int, str, str], str | None]) -> Broken:
    return replace(one, value=one.value or values.get((one.file, one.row_number, one.rule, one.column)))
