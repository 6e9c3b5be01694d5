"""Who did what: an append-only log, each entry of it signed, and all of them chained."""
