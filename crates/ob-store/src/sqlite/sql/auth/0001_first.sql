-- Times are microseconds since the Unix epoch, UTC. No secret is here, only the SHA-256 of each.

CREATE TABLE tokens (
  key        INTEGER PRIMARY KEY AUTOINCREMENT,
  id         TEXT NOT NULL UNIQUE,
  name       TEXT NOT NULL,
  prefix     INTEGER NOT NULL,
  hash       BLOB NOT NULL UNIQUE,
  revoked_at INTEGER,
  record     TEXT NOT NULL
) STRICT;
-- Found by the first 8 bytes of the hash; the rest is compared in constant time.
CREATE INDEX tokens_prefix ON tokens (prefix);
CREATE INDEX tokens_name ON tokens (name, key);
CREATE UNIQUE INDEX tokens_live_name ON tokens (name) WHERE revoked_at IS NULL;
