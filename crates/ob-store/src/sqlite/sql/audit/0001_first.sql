-- The audit: a chain. Each row's hash is over the row before it, so nothing can be changed, taken out or put in between
-- without changing everything after it; the head says how far the chain reaches.

CREATE TABLE audit (
  seq   INTEGER PRIMARY KEY,
  entry TEXT NOT NULL,
  hash  BLOB NOT NULL
) STRICT;

CREATE TABLE head (
  one  INTEGER PRIMARY KEY CHECK (one = 1),
  seq  INTEGER NOT NULL,
  hash BLOB NOT NULL
) STRICT;
INSERT INTO head (one, seq, hash) VALUES (1, 0, zeroblob(32));

-- Against mistakes; the chain is against the rest.
CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit BEGIN
  SELECT raise(ABORT, 'the audit is only ever added to');
END;
CREATE TRIGGER audit_never_shrinks BEFORE DELETE ON audit BEGIN
  SELECT raise(ABORT, 'the audit is only ever added to');
END;
