-- The newest events, one row for each transaction, until they are moved into `events`. `body` is a JSON array of
-- [session_key, seq, kind, version, payload or null, SHA-256 of the blob in hex or null].
CREATE TABLE tail (
  id   INTEGER PRIMARY KEY,
  at   INTEGER NOT NULL,
  body TEXT NOT NULL
) STRICT;
