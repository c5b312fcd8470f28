"""The history of streams: what can be asked of the database, and how its answers are told.

    a query string ── parameters ──▶ Listing, Grouping, Export ── queries ──▶ SQL ── reader ──▶ rows ── answers ──▶ JSON
                                                                                                   └─── export ──▶ CSV

All but `reader` is pure.  Every value reaches SQLite as a bound parameter.
"""
